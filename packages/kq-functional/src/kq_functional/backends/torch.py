"""The pure-torch backend: every op on every device that torch has, correct first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats import (
    BLOCKSIZES_4BIT,
    FLOAT_DTYPES,
    QUANT_TYPES,
    check_blocksize,
    check_dtype,
    check_quant_type,
    dtype_name,
)
from ..products import multiply, segments
from ..rules import check_rounding, check_rule
from ._step_capabilities import step_capabilities
from ._torch_codes import (
    block_slice,
    byte_values,
    decode,
    encode,
    encoding_device,
    expand_scales,
    midpoints,
    sorted_4bit,
    tiles,
)
from ._torch_int8 import TorchInt8
from ._torch_optimizer import step_8bit, step_32bit
from .base import OPS, Capability, Scales

_DTYPES = frozenset(map(dtype_name, FLOAT_DTYPES))


def _capability(op: str) -> Capability:
    if "4bit" in op:
        return Capability(op, _DTYPES, None, frozenset(QUANT_TYPES), BLOCKSIZES_4BIT)
    if op == "int8_linear_matmul":
        return Capability(op, frozenset({"int8"}))
    return Capability(op, _DTYPES)


def _check_4bit(name: str, tensor: Tensor, quant_type: str, blocksize: int) -> None:
    check_dtype(name, tensor.dtype)
    check_quant_type(quant_type)
    check_blocksize(blocksize, four_bit=True)


def _check_8bit(name: str, tensor: Tensor, blocksize: int) -> None:
    check_dtype(name, tensor.dtype)
    check_blocksize(blocksize, four_bit=False)


def _check_step(params: Sequence[Tensor], rounding: str) -> None:
    for dtype in {param.dtype for param in params}:
        check_dtype("params", dtype)
        check_rounding(rounding, dtype)


class TorchBackend(TorchInt8):
    """Computes with torch ops only."""

    name = "torch"
    version = torch.__version__
    capabilities = (
        *(_capability(op) for op in OPS if not op.startswith("optimizer")),
        *step_capabilities(None),
    )

    def quantize_4bit(
        self, A: Tensor, packed: Tensor, absmax: Tensor, *, quant_type: str, blocksize: int
    ) -> None:
        """Encode, put two codes in a byte, the first in the high nibble."""
        _check_4bit("A", A, quant_type, blocksize)
        thresholds, codes = sorted_4bit(quant_type, A.device)
        zero = int(codes[torch.bucketize(0.0, thresholds)])
        for rows, cols, index in encode(A, absmax, thresholds, blocksize):
            nibbles = codes[index]
            if nibbles.shape[1] % 2:
                nibbles = torch.nn.functional.pad(nibbles, (0, 1), value=zero)
            # Only the last tile of a row can end on an odd column.
            stored = slice(cols.start // 2, (cols.stop + 1) // 2)
            packed[rows, stored] = nibbles[:, ::2] << 4 | nibbles[:, 1::2]

    def dequantize_4bit(
        self, packed: Tensor, scales: Scales, out: Tensor, *, quant_type: str, blocksize: int
    ) -> None:
        """Look up both values of a byte at once, then scale."""
        _check_4bit("out", out, quant_type, blocksize)
        absmax = expand_scales(scales)
        table = byte_values(quant_type, packed.device)
        for rows, cols in tiles(out.shape[0], out.shape[1], blocksize):
            stored = packed[rows, cols.start // 2 : (cols.stop + 1) // 2]
            values = table[stored.int()].view(stored.shape[0], -1)[:, : cols.stop - cols.start]
            decode(values, absmax[rows, block_slice(cols, blocksize)], blocksize, out[rows, cols])

    def quantize_blockwise(
        self, A: Tensor, code: Tensor, codes: Tensor, absmax: Tensor, *, blocksize: int
    ) -> None:
        """Encode; the index in the sorted codebook is the code."""
        _check_8bit("A", A, blocksize)
        thresholds = midpoints(code.to(encoding_device(code.device)))
        for rows, cols, index in encode(A, absmax, thresholds, blocksize):
            codes[rows, cols] = index.to(torch.uint8)

    def dequantize_blockwise(
        self, codes: Tensor, code: Tensor, absmax: Tensor, out: Tensor, *, blocksize: int
    ) -> None:
        """Look up, then scale."""
        _check_8bit("out", out, blocksize)
        for rows, cols in tiles(out.shape[0], out.shape[1], blocksize):
            values = code[codes[rows, cols].int()]
            decode(values, absmax[rows, block_slice(cols, blocksize)], blocksize, out[rows, cols])

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
        """Decode the weight in the dtype of x and multiply."""
        _check_4bit("x", x, quant_type, blocksize)
        weight = x.new_empty(out.shape[1], x.shape[1])
        self.dequantize_4bit(packed, scales, weight, quant_type=quant_type, blocksize=blocksize)
        multiply(x, weight.t(), bias, out)

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
        """Decode the weight in the dtype of grad and multiply."""
        _check_4bit("grad", grad, quant_type, blocksize)
        weight = grad.new_empty(grad.shape[1], out.shape[1])
        self.dequantize_4bit(packed, scales, weight, quant_type=quant_type, blocksize=blocksize)
        multiply(grad, weight, None, out)

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
        """Multiply expert by expert, so that one weight is decoded at a time."""
        _check_4bit("x", x, quant_type, blocksize)
        absmax, n = expand_scales(scales), out.shape[1]
        for expert, rows in segments(counts):
            own = slice(expert * n, (expert + 1) * n)
            self.linear_4bit(
                x[rows],
                packed[own],
                Scales(absmax[own]),
                None if bias is None else bias[expert],
                out[rows],
                quant_type=quant_type,
                blocksize=blocksize,
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
        """Multiply expert by expert, so that one weight is decoded at a time."""
        _check_4bit("grad", grad, quant_type, blocksize)
        absmax, n = expand_scales(scales), grad.shape[1]
        for expert, rows in segments(counts):
            own = slice(expert * n, (expert + 1) * n)
            self.linear_4bit_backward(
                grad[rows],
                packed[own],
                Scales(absmax[own]),
                out[rows],
                quant_type=quant_type,
                blocksize=blocksize,
            )

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
        """Decode, update and re-encode tile by tile."""
        check_rule(rule, coded=True)
        _check_step(params, options["rounding"])
        step_8bit(rule, params, grads, codes, absmax, code_maps, steps, **options)

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[Tensor],
        steps: Sequence[int],
        **options: Any,
    ) -> None:
        """Update tile by tile."""
        check_rule(rule)
        _check_step(params, options["rounding"])
        step_32bit(rule, params, grads, states, steps, **options)


_BACKEND = TorchBackend()


def load() -> TorchBackend:
    """Return the backend; it needs nothing but torch."""
    return _BACKEND
