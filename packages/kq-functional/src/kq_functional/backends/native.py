"""The native CPU backend: hands tensors to kq-kernels as (address, size, dtype).

The kernels refuse the quant_type, block size or rule that they do not have, so only what an address
does not tell is checked here: dtype, device and the distance between rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats import BLOCKSIZES_4BIT, FLOAT_DTYPES, QUANT_TYPES, dtype_name
from ..rules import RULES, check_rule
from ._native_arrays import array_argument as _array
from ._native_arrays import optional_argument as _optional
from ._native_arrays import rows_argument as _rows
from ._native_int8 import NativeInt8, int8_capabilities
from ._step_capabilities import step_capabilities
from .base import BackendNotInstalledError, Capability, Scales

_CPU = frozenset({"cpu"})
_DTYPES = frozenset(map(dtype_name, FLOAT_DTYPES))


def _four_bit(op: str) -> Capability:
    return Capability(op, _DTYPES, _CPU, frozenset(QUANT_TYPES), BLOCKSIZES_4BIT)


_CAPABILITIES = (
    _four_bit("quantize_4bit"),
    _four_bit("dequantize_4bit"),
    Capability("quantize_blockwise", _DTYPES, _CPU),
    Capability("dequantize_blockwise", _DTYPES, _CPU),
    _four_bit("linear_4bit"),
    _four_bit("linear_4bit_backward"),
    _four_bit("linear_4bit_grouped"),
    _four_bit("linear_4bit_grouped_backward"),
    *int8_capabilities(_CPU),
    *step_capabilities(_CPU),
)


class NativeBackend(NativeInt8):
    """Computes with the kernels for the processor's best instruction set, on torch's threads."""

    name = "native"
    capabilities = _CAPABILITIES

    def __init__(self, kernels: Any) -> None:
        super().__init__(kernels)
        self.version: str = kernels.__version__

    def describe(self) -> dict[str, str]:
        """Return the version, the instruction sets and how kq-kernels was built."""
        return dict(self._kernels.build_info())

    def quantize_4bit(
        self, A: Tensor, packed: Tensor, absmax: Tensor, *, quant_type: str, blocksize: int
    ) -> None:
        """See `Backend.quantize_4bit`."""
        rows, cols = A.shape
        array, row_stride = _rows("A", A)
        self._kernels.quantize_4bit(
            array,
            _array(packed),
            _array(absmax),
            rows,
            cols,
            blocksize,
            quant_type,
            torch.get_num_threads(),
            row_stride,
        )

    def dequantize_4bit(
        self, packed: Tensor, scales: Scales, out: Tensor, *, quant_type: str, blocksize: int
    ) -> None:
        """See `Backend.dequantize_4bit`."""
        rows, cols = out.shape
        self._kernels.dequantize_4bit(
            _array(packed),
            _array(scales.absmax),
            _array(out),
            rows,
            cols,
            blocksize,
            quant_type,
            _optional(scales.nested_absmax),
            _optional(scales.nested_code),
            _optional(scales.offset),
            torch.get_num_threads(),
        )

    def quantize_blockwise(
        self, A: Tensor, code: Tensor, codes: Tensor, absmax: Tensor, *, blocksize: int
    ) -> None:
        """See `Backend.quantize_blockwise`."""
        rows, cols = A.shape
        array, row_stride = _rows("A", A)
        self._kernels.quantize_blockwise(
            array,
            _array(code),
            _array(codes),
            _array(absmax),
            rows,
            cols,
            blocksize,
            torch.get_num_threads(),
            row_stride,
        )

    def dequantize_blockwise(
        self, codes: Tensor, code: Tensor, absmax: Tensor, out: Tensor, *, blocksize: int
    ) -> None:
        """See `Backend.dequantize_blockwise`."""
        rows, cols = out.shape
        self._kernels.dequantize_blockwise(
            _array(codes),
            _array(code),
            _array(absmax),
            _array(out),
            rows,
            cols,
            blocksize,
            torch.get_num_threads(),
        )

    def linear_4bit(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Scales,
        bias: Tensor | None,
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """See `Backend.linear_4bit`."""
        array, row_stride = _rows("x", x)
        self._kernels.linear_4bit(
            array,
            _array(packed),
            _array(scales.absmax),
            _optional(bias),
            _array(out),
            out.shape[0],
            out.shape[1],
            x.shape[1],
            blocksize,
            quant_type,
            _optional(scales.nested_absmax),
            _optional(scales.nested_code),
            _optional(scales.offset),
            torch.get_num_threads(),
            row_stride,
        )

    def linear_4bit_backward(
        self,
        grad: Tensor,
        packed: Tensor,
        scales: Scales,
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """See `Backend.linear_4bit_backward`."""
        array, row_stride = _rows("grad", grad)
        self._kernels.linear_4bit_backward(
            array,
            _array(packed),
            _array(scales.absmax),
            _array(out),
            out.shape[0],
            grad.shape[1],
            out.shape[1],
            blocksize,
            quant_type,
            _optional(scales.nested_absmax),
            _optional(scales.nested_code),
            _optional(scales.offset),
            torch.get_num_threads(),
            row_stride,
        )

    def linear_4bit_unchecked(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Scales,
        bias: Tensor | None,
        out: Tensor,
        *,
        shape: Sequence[int],
        quant_type: str,
        blocksize: int,
    ) -> None:
        """See `Backend.linear_4bit_unchecked`: the kernels look at the tensors themselves."""
        n, k = shape
        absmax, nested_absmax, nested_code, offset = scales
        self._kernels.linear_4bit(
            x,
            packed,
            absmax,
            bias,
            _array(out),
            x.numel() // k,
            n,
            k,
            blocksize,
            quant_type,
            nested_absmax,
            nested_code,
            offset,
            torch.get_num_threads(),
        )

    def linear_4bit_backward_unchecked(
        self,
        grad: Tensor,
        packed: Tensor,
        scales: Scales,
        out: Tensor,
        *,
        shape: Sequence[int],
        quant_type: str,
        blocksize: int,
    ) -> None:
        """See `Backend.linear_4bit_backward_unchecked`."""
        n, k = shape
        absmax, nested_absmax, nested_code, offset = scales
        self._kernels.linear_4bit_backward(
            grad,
            packed,
            absmax,
            _array(out),
            grad.numel() // n,
            n,
            k,
            blocksize,
            quant_type,
            nested_absmax,
            nested_code,
            offset,
            torch.get_num_threads(),
        )

    def linear_4bit_grouped(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Scales,
        bias: Tensor | None,
        counts: Sequence[int],
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """See `Backend.linear_4bit_grouped`."""
        array, row_stride = _rows("x", x)
        self._kernels.linear_4bit_grouped(
            array,
            _array(packed),
            _array(scales.absmax),
            _optional(bias),
            _array(out),
            list(counts),
            out.shape[1],
            x.shape[1],
            blocksize,
            quant_type,
            _optional(scales.nested_absmax),
            _optional(scales.nested_code),
            _optional(scales.offset),
            torch.get_num_threads(),
            row_stride,
        )

    def linear_4bit_grouped_backward(
        self,
        grad: Tensor,
        packed: Tensor,
        scales: Scales,
        counts: Sequence[int],
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """See `Backend.linear_4bit_grouped_backward`."""
        array, row_stride = _rows("grad", grad)
        self._kernels.linear_4bit_grouped_backward(
            array,
            _array(packed),
            _array(scales.absmax),
            _array(out),
            list(counts),
            grad.shape[1],
            out.shape[1],
            blocksize,
            quant_type,
            _optional(scales.nested_absmax),
            _optional(scales.nested_code),
            _optional(scales.offset),
            torch.get_num_threads(),
            row_stride,
        )

    checks_steps = True

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        codes: Sequence[Tensor],
        absmax: Sequence[Tensor],
        code_maps: Sequence[Tensor],
        steps: Sequence[int],
        **options: Any,
    ) -> None:
        """See `Backend.optimizer_step_8bit`: the kernels look at the tensors themselves."""
        self._kernels.optimizer_step_8bit(
            rule,
            list(params),
            list(grads),
            list(codes),
            list(absmax),
            list(code_maps),
            list(steps),
            **_step_options(rule, options),
        )

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[Tensor],
        steps: Sequence[int],
        **options: Any,
    ) -> None:
        """See `Backend.optimizer_step_32bit`."""
        self._kernels.optimizer_step_32bit(
            rule,
            list(params),
            list(grads),
            list(states),
            list(steps),
            **_step_options(rule, options),
        )


def _step_options(rule: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as the kernels take them: hyperparameters in the order of the rule."""
    check_rule(rule)
    hyper = [options.pop(name) for name in RULES[rule].hyper]
    per_param = {name: list(options[name]) for name in ("corrections", "seeds")}
    return options | per_param | {"hyper": hyper, "threads": torch.get_num_threads()}


def load() -> NativeBackend:
    """Return the backend.

    Raises:
        BackendNotInstalledError: kq-kernels is not installed.
        ImportError: kq-kernels does not load, or lacks a function this version calls.
    """
    try:
        import kq_kernels
    except ModuleNotFoundError as error:
        if error.name != "kq_kernels":
            raise
        raise BackendNotInstalledError(
            "kq-kernels is not installed (pip install 'kq-functional[native]')"
        ) from None
    needed = [capability.op for capability in _CAPABILITIES]
    needed += ["build_info", "__version__"]
    missing = [name for name in needed if not hasattr(kq_kernels, name)]
    if missing:
        raise ImportError(
            f"kq_kernels {getattr(kq_kernels, '__version__', '')} does not fit this kq_functional: "
            f"it has no {', '.join(missing)}"
        )
    return NativeBackend(kq_kernels)
