"""Mistakes with memory: what is read and written, and where."""

import math
from typing import Any

import numpy as np

from kq_conformance.floats import FORMATS, Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference_backend import ReferenceBackend, format_of, memory
from kq_conformance.runner import Verdict

__all__: list[str] = []

_REGISTER = 16  # bytes


@killed_by("dequantize_4bit/nf4/b64/float32/tail-c65")
class ReadsPastTheEnd(ReferenceBackend):
    """A vector load at the end of the codes takes one byte more than there is, and masks it."""

    def codes(self, tensor: Any) -> Array:
        if tensor.numel():
            memory(tensor, after=1).copy()
        return super().codes(tensor)


@killed_by("dequantize_4bit/nf4/b64/float32/r5-c197/before")
class ReadsBeforeTheStart(ReferenceBackend):
    """A loop that runs backwards takes one byte before the first code."""

    def codes(self, tensor: Any) -> Array:
        if tensor.numel():
            memory(tensor, before=1).copy()
        return super().codes(tensor)


@killed_by("quantize_4bit/nf4/b64/float32/random")
class WritesPastTheEnd(ReferenceBackend):
    """One byte is written behind the packed codes."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        if packed.numel():
            memory(packed, after=1)[-1] = 0


@killed_by("quantize_4bit/nf4/b64/float32/random")
class WritesBeforeTheStart(ReferenceBackend):
    """One byte is written before the packed codes."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        if packed.numel():
            memory(packed, before=1)[0] = 0


@killed_by("quantize_4bit/nf4/b64/float32/random")
class ChangesItsInput(ReferenceBackend):
    """The caller's matrix is overwritten with its magnitudes."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        self.store(A, np.abs(self.load(A)))


@killed_by("linear_4bit/nf4/b64/float32/m16-n48-k64", ledger="D26")
class RestoresItsInput(ReferenceBackend):
    """The largest element of the input is set to zero during the product, and then restored."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        values = self.load(x)
        if values.size:
            changed = values.copy()
            changed[np.abs(values) == np.abs(values).max()] = 0
            self.store(x, changed)
            self.store(x, values)
        super().linear_4bit(x, packed, scales, bias, out, **o)


@killed_by("quantize_4bit/nf4/b64/float32/strided")
class StridesIgnored(ReferenceBackend):
    """The rows of the input are read as if they followed each other."""

    def load(self, tensor: Any) -> Float64:
        kind = FORMATS[format_of(tensor)]
        if not tensor.numel():
            return super().load(tensor)
        bits = memory(tensor).view(kind.bits_dtype)
        return kind.decode(bits.reshape(tuple(tensor.shape)))


@killed_by("dequantize_4bit/nf4/b64/float32/r5-c197/offset")
class PointerRoundedDown(ReferenceBackend):
    """An aligned load ignores the lowest bits of the address."""

    def codes(self, tensor: Any) -> Array:
        if not tensor.numel():
            return super().codes(tensor)
        shown = memory(tensor, before=tensor.data_ptr() % _REGISTER)
        return shown[: tensor.numel()].reshape(tuple(tensor.shape)).copy()


@killed_by("linear_4bit/nf4/b64/float32/m3-n21-k197/offset", Verdict.CRASH)
class NeedsAlignment(ReferenceBackend):
    """An instruction for aligned memory faults on an input that is not aligned."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        if x.data_ptr() % _REGISTER:
            raise RuntimeError(f"x must be aligned to {_REGISTER} bytes")
        super().linear_4bit(x, packed, scales, bias, out, **o)


@killed_by("linear_4bit/nf4/b64/float32/m16-n48-k64")
class AddsToTheBuffer(ReferenceBackend):
    """The result is added to what the buffer of the caller held."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        before = self.load(out)
        super().linear_4bit(x, packed, scales, bias, out, **o)
        self.store(out, self.load(out) + before)


@killed_by("dequantize_4bit/nf4/b64/float32/tail-c65")
class LastElementNotWritten(ReferenceBackend):
    """The last element of the result keeps what was in the buffer."""

    def dequantize_4bit(self, packed: Any, scales: Any, out: Any, **options: Any) -> None:
        before = memory(out).copy() if out.numel() else np.zeros(0, np.uint8)
        super().dequantize_4bit(packed, scales, out, **options)
        if math.prod(out.shape):
            size = out.element_size()
            memory(out)[-size:] = before[-size:]


@killed_by("quantize_blockwise/dynamic-signed/b256/float32/tail-c257")
class LastScaleNotWritten(ReferenceBackend):
    """The scale of the last block keeps what was in the buffer."""

    def quantize_blockwise(self, A: Any, code: Any, codes: Any, absmax: Any, **o: Any) -> None:
        before = self.load(absmax)
        super().quantize_blockwise(A, code, codes, absmax, **o)
        if before.size:
            scales = self.load(absmax)
            scales[-1, -1] = before[-1, -1]
            self.store(absmax, scales)
