"""The bridge to a backend: NumPy arrays in, a backend's tensors, NumPy arrays out.

This module, its part `kq_conformance.adapter_int8`, `kq_conformance.arena` and
`kq_conformance.public` are the only ones that know torch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from kq_conformance.adapter_int8 import Int8Operations
from kq_conformance.arena import Arena, ask
from kq_conformance.floats import Stored
from kq_conformance.reference import Hyper, count_blocks
from kq_conformance.subject import (
    Outputs,
    Placement,
    Rounding,
    Route,
    RouteMissingError,
    StoredScales,
    Subject,
)

__all__ = ["Adapter", "torch_environment"]


def torch_environment(device: str) -> dict[str, str]:
    """The version of torch, and the name of the accelerator if the tensors lie on one."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return {"torch": str(torch.__version__), "accelerator": name}


class _Scales(NamedTuple):
    """What the backend contract calls `Scales`."""

    absmax: torch.Tensor
    nested_absmax: torch.Tensor | None = None
    nested_code: torch.Tensor | None = None
    offset: torch.Tensor | None = None


def _scales(arena: Arena, scales: StoredScales) -> _Scales:
    placed = (
        None if each is None else arena.read(name, each)
        for name, each in zip(StoredScales._fields, scales, strict=True)
    )
    return _Scales(*placed)  # type: ignore[arg-type]  # the first field is never None


def _options(arena: Arena, hyper: Hyper, rounding: Rounding) -> dict[str, Any]:
    """The keywords of an optimizer step: the common ones, and the rule's own."""
    corrections = [
        arena.update(f"corrections[{i}]", each) for i, each in enumerate(rounding.corrections)
    ]
    given = {"rounding": rounding.name, "seeds": list(rounding.seeds), "corrections": corrections}
    return {**hyper.common, **given, **hyper.own}


def _blocks(cols: int, blocksize: int) -> int:
    """Blocks in a row; also for sizes that are no block sizes and must be refused."""
    return count_blocks(cols, max(blocksize, 1))


class Adapter(Int8Operations):
    """Runs a backend's methods on guarded tensors; implements `kq_conformance.subject.Subject`.

    Args:
        backend: an object that fulfills the backend contract.
        device: torch device type of all tensors.
        name: what `kq_functional.use_backend` calls it; without one there is no `public`.

    Raises:
        ValueError: if torch cannot put a tensor there.
    """

    def __init__(self, backend: Any, device: str = "cpu", name: str | None = None) -> None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device {device!r} cannot hold tensors: {reason}") from error
        self._backend = backend
        self._device = device
        self._name = name
        self._placement = Placement.END

    def _arena(self) -> Arena:
        return Arena(self._device, self._placement)

    def quantize_4bit(self, x: Stored, *, quant_type: str, blocksize: int) -> Outputs:
        """See `Subject.quantize_4bit`."""
        rows, cols = x.bits.shape
        arena = self._arena()
        return ask(
            arena,
            self._backend.quantize_4bit,
            arena.read("A", x, rows=True),
            arena.write("packed", (rows, (cols + 1) // 2), "uint8"),
            arena.write("absmax", (rows, _blocks(cols, blocksize)), "float32"),
            quant_type=quant_type,
            blocksize=blocksize,
        )

    def dequantize_4bit(
        self,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        dtype: str,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.dequantize_4bit`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.dequantize_4bit,
            arena.read("packed", packed),
            _scales(arena, scales),
            arena.write("out", (packed.bits.shape[0], cols), dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )

    def quantize_blockwise(self, x: Stored, code: Stored, *, blocksize: int) -> Outputs:
        """See `Subject.quantize_blockwise`."""
        rows, cols = x.bits.shape
        arena = self._arena()
        return ask(
            arena,
            self._backend.quantize_blockwise,
            arena.read("A", x, rows=True),
            arena.read("code", code),
            arena.write("codes", (rows, cols), "uint8"),
            arena.write("absmax", (rows, _blocks(cols, blocksize)), "float32"),
            blocksize=blocksize,
        )

    def dequantize_blockwise(
        self, codes: Stored, code: Stored, absmax: Stored, dtype: str, *, blocksize: int
    ) -> Outputs:
        """See `Subject.dequantize_blockwise`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.dequantize_blockwise,
            arena.read("codes", codes),
            arena.read("code", code),
            arena.read("absmax", absmax),
            arena.write("out", codes.bits.shape, dtype),
            blocksize=blocksize,
        )

    def linear_4bit(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.linear_4bit,
            arena.read("x", x, rows=True),
            arena.read("packed", packed),
            _scales(arena, scales),
            None if bias is None else arena.read("bias", bias),
            arena.write("out", (x.bits.shape[0], packed.bits.shape[0]), x.dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )

    def linear_4bit_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_backward`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.linear_4bit_backward,
            arena.read("grad", grad, rows=True),
            arena.read("packed", packed),
            _scales(arena, scales),
            arena.write("out", (grad.bits.shape[0], cols), grad.dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )

    def linear_4bit_grouped(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        counts: Sequence[int],
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_grouped`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.linear_4bit_grouped,
            arena.read("x", x, rows=True),
            arena.read("packed", packed),
            _scales(arena, scales),
            None if bias is None else arena.read("bias", bias),
            list(counts),
            arena.write("out", (x.bits.shape[0], packed.bits.shape[0] // len(counts)), x.dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )

    def linear_4bit_grouped_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        counts: Sequence[int],
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_grouped_backward`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.linear_4bit_grouped_backward,
            arena.read("grad", grad, rows=True),
            arena.read("packed", packed),
            _scales(arena, scales),
            list(counts),
            arena.write("out", (grad.bits.shape[0], cols), grad.dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        codes: Sequence[Stored],
        absmax: Sequence[Stored],
        code_maps: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
        *,
        rounding: Rounding,
    ) -> Outputs:
        """See `Subject.optimizer_step_8bit`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.optimizer_step_8bit,
            rule,
            [arena.update(f"params[{i}]", each) for i, each in enumerate(params)],
            [arena.read(f"grads[{i}]", each) for i, each in enumerate(grads)],
            [arena.update(f"codes[{i}]", each) for i, each in enumerate(codes)],
            [arena.update(f"absmax[{i}]", each) for i, each in enumerate(absmax)],
            [arena.read(f"code_maps[{i}]", each) for i, each in enumerate(code_maps)],
            list(steps),
            **_options(arena, hyper, rounding),
        )

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        states: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
        *,
        rounding: Rounding,
    ) -> Outputs:
        """See `Subject.optimizer_step_32bit`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.optimizer_step_32bit,
            rule,
            [arena.update(f"params[{i}]", each) for i, each in enumerate(params)],
            [arena.read(f"grads[{i}]", each) for i, each in enumerate(grads)],
            [arena.update(f"states[{i}]", each) for i, each in enumerate(states)],
            list(steps),
            **_options(arena, hyper, rounding),
        )

    @contextmanager
    def threads(self, number: int) -> Iterator[None]:
        """Set torch's number of threads inside the context, and restore it."""
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def placed(self, placement: Placement) -> Iterator[None]:
        """See `Subject.placed`."""
        before, self._placement = self._placement, placement
        try:
            yield
        finally:
            self._placement = before

    def public(self, route: Route) -> Subject:
        """See `Subject.public`."""
        if self._name is None:
            raise RouteMissingError("the backend has no name by which kq-functional could find it")
        from kq_conformance.public import PublicSubject

        return PublicSubject(self._name, self._device, route)
