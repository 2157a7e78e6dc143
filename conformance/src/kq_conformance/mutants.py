"""Deliberately broken backends: the proof that the suite bites.

Each mutant is the NumPy backend with one mistake, of a kind that real libraries have shipped or
that a kernel author makes on the first day, and names a case that must catch it.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, Array
from kq_conformance.numpy_backend import NumpyBackend

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """A broken backend.

    Attributes:
        name: short name.
        killer: id of a case that must not pass.
        make: builds the backend.
    """

    name: str
    killer: str
    make: Callable[[], NumpyBackend]

    @property
    def mistake(self) -> str:
        """What is wrong with it, in words."""
        return (self.make.__doc__ or "").strip()


MUTANTS: list[Mutant] = []


def _killed_by(case: str) -> Callable[[type[NumpyBackend]], type[NumpyBackend]]:
    """Register a class under its name in words, with the case that catches it."""

    def register(backend: type[NumpyBackend]) -> type[NumpyBackend]:
        words = "".join(f"-{c.lower()}" if c.isupper() else c for c in backend.__name__.strip("_"))
        MUTANTS.append(Mutant(words.strip("-"), case, backend))
        return backend

    return register


def _bytes(tensor: Any, beyond: int = 0) -> Array:
    """The memory of a tensor as bytes, and some that are not its own."""
    size = tensor.numel() * tensor.element_size() + beyond
    memory = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    return np.ndarray((size,), dtype=np.uint8, buffer=memory)


@_killed_by("quantize_4bit/nf4/b64/float32/random")
class _SwappedNibbles(NumpyBackend):
    """The first element of a pair is packed into the low nibble."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        codes = _bytes(packed)
        codes[:] = (codes << 4) | (codes >> 4)


@_killed_by("quantize_blockwise/even/b256/float32/midpoints")
class _TiesUpward(NumpyBackend):
    """A ratio exactly at a midpoint gets the upper code."""

    @staticmethod
    def nearest(x: Array, absmax: Array, ascending: Array, zero: int) -> Array:
        index = NumpyBackend.nearest(x, absmax, ascending, zero)
        midpoints = (ascending[:-1].astype(np.float64) + ascending[1:]) / 2
        above = midpoints[np.minimum(index, len(midpoints) - 1)] * absmax
        return np.where((x == above) & (absmax > 0), index + 1, index)


@_killed_by("quantize_4bit/nf4/b64/float32/midpoints")
class _RoundedRatio(NumpyBackend):
    """The ratio is x times the rounded reciprocal of absmax: one code off beside a midpoint."""

    @staticmethod
    def nearest(x: Array, absmax: Array, ascending: Array, zero: int) -> Array:
        healthy = (absmax > 0) & np.isfinite(absmax)
        with np.errstate(over="ignore", invalid="ignore"):
            ratio = x * (np.float32(1) / np.where(healthy, absmax, np.float32(1)))
        index = np.searchsorted((ascending[:-1] + ascending[1:]) / 2, ratio)
        return np.where(healthy, index, zero)


@_killed_by("quantize_4bit/nf4/b64/float32/zeros")
class _ZeroBlockIsCodeZero(NumpyBackend):
    """A block of zeros gets code 0, whatever that code means."""

    @staticmethod
    def nearest(x: Array, absmax: Array, ascending: Array, zero: int) -> Array:
        index = NumpyBackend.nearest(x, absmax, ascending, zero)
        return np.where(absmax == 0, 0, index)


@_killed_by("quantize_4bit/nf4/b64/float32/nonfinite")
class _NanSkipped(NumpyBackend):
    """The maximum skips NaN, as fmax and many GPU reductions do."""

    @staticmethod
    def absmax(x: Array, blocksize: int) -> Array:
        return NumpyBackend.absmax(np.where(np.isnan(x), np.float32(0), x), blocksize)


@_killed_by("quantize_4bit/nf4/b64/float32/tail-c65")
class _TailBlockIgnored(NumpyBackend):
    """The short block at the end of a row gets no scale."""

    @staticmethod
    def absmax(x: Array, blocksize: int) -> Array:
        absmax = NumpyBackend.absmax(x, blocksize)
        absmax[:, x.shape[1] // blocksize :] = 0
        return absmax


@_killed_by("quantize_4bit/nf4/b64/float32/random")
class _ScaleOfTheRow(NumpyBackend):
    """One absmax for the whole row instead of one for each block."""

    @staticmethod
    def absmax(x: Array, blocksize: int) -> Array:
        absmax = NumpyBackend.absmax(x, blocksize)
        return np.broadcast_to(absmax.max(axis=1, keepdims=True, initial=0), absmax.shape).copy()


@_killed_by("quantize_4bit/nf4/b64/float32/random")
class _WritesPastTheEnd(NumpyBackend):
    """One byte is written after the packed codes."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        _bytes(packed, beyond=1)[-1] = 0


@_killed_by("quantize_4bit/nf4/b64/float32/random")
class _ChangesItsInput(NumpyBackend):
    """The caller's matrix is overwritten with its magnitudes."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        _bytes(A)[3::4] &= 0x7F


@_killed_by("dequantize_4bit/nf4/b64/float32/tail-c65")
class _LastElementForgotten(NumpyBackend):
    """The last element of the result keeps what was in the buffer."""

    def dequantize_4bit(self, packed: Any, scales: Any, out: Any, **options: Any) -> None:
        before = _bytes(out).copy()
        super().dequantize_4bit(packed, scales, out, **options)
        size = out.element_size()
        _bytes(out)[-size:] = before[-size:]


@_killed_by("dequantize_4bit/nf4/b64/float32/nested")
class _OffsetInBfloat16(NumpyBackend):
    """The offset of double-quantized scales is held in bfloat16."""

    def scales(self, scales: Any) -> Array:
        decoded = super().scales(scales)
        if scales.offset is None:
            return decoded
        offset = float(scales.offset)
        return decoded - np.float32(offset) + np.float32(BFLOAT16.round(offset))


@_killed_by("dequantize_4bit/nf4/b64/float32/tail-c65")
class _BlocksPerRowRoundedDown(NumpyBackend):
    """The index of a scale counts floor(C / blocksize) blocks in a row."""

    def scales(self, scales: Any) -> Array:
        decoded = super().scales(scales)
        flat, (rows, blocks) = decoded.reshape(-1), decoded.shape
        whole = max(blocks - 1, 1)
        index = np.arange(rows)[:, None] * whole + np.arange(blocks)
        return flat[np.minimum(index, max(flat.size - 1, 0))] if flat.size else decoded


@_killed_by("linear_4bit/nf4/b64/bfloat16/m16-n48-k64")
class _AccumulatesInBfloat16(NumpyBackend):
    """Sums are rounded to bfloat16 after each addition."""

    @staticmethod
    def product(a: Array, b: Array) -> Array:
        total = np.zeros((a.shape[0], b.shape[1]), dtype=np.float32)
        for k in range(a.shape[1]):
            total = BFLOAT16.round(total + a[:, k, None] * b[None, k, :]).astype(np.float32)
        return total


@_killed_by("linear_4bit/nf4/b64/float32/m5-n33-k257/bias")
class _BiasTwice(NumpyBackend):
    """The bias is added by the kernel and again by the epilogue."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        super().linear_4bit(x, packed, scales, None if bias is None else bias * 2, out, **o)


@_killed_by("linear_4bit/nf4/b64/float32/m16-n48-k64")
class _FirstRowOnly(NumpyBackend):
    """A matrix-vector kernel is used for any number of rows."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        super().linear_4bit(x[:1], packed, scales, bias, out[:1], **o)


@_killed_by("linear_4bit_backward/nf4/b64/float32/m5-n33-k257")
class _GradientTransposed(NumpyBackend):
    """The gradient is multiplied with the weight read as [K, N]."""

    def linear_4bit_backward(
        self, grad: Any, packed: Any, scales: Any, out: Any, *, quant_type: str, blocksize: int
    ) -> None:
        weights = self.weights(packed, scales, out.shape[1], quant_type, blocksize)
        transposed = np.ascontiguousarray(weights.T).reshape(weights.shape)
        a = _bytes(grad).view(np.float32).reshape(tuple(grad.shape))
        _bytes(out).view(np.float32).reshape(tuple(out.shape))[...] = a @ transposed


@_killed_by("linear_4bit/nf4/b64/float32/m17-n129-k257/bias/nested/repeat")
class _ChangesWithTime(NumpyBackend):
    """The result depends on what ran before, as unordered reductions do."""

    calls = 0

    def product(self, a: Array, b: Array) -> Array:
        self.calls += 1
        order = np.arange(a.shape[1])[:: 1 if self.calls % 2 else -1]
        return NumpyBackend.product(a[:, order], b[order])


@_killed_by("optimizer_step_8bit/adam/float32/first-step")
class _NoBiasCorrection(NumpyBackend):
    """The moments are used as if the step were the millionth."""

    @staticmethod
    def adam(p: Array, g: Array, m: Array, v: Array, step: int, **hyper: Any) -> Any:
        del step
        return NumpyBackend.adam(p, g, m, v, 1_000_000, **hyper)


@_killed_by("optimizer_step_32bit/adam/float32/decoupled-decay")
class _DecayAlwaysCoupled(NumpyBackend):
    """AdamW is run as Adam with L2 regularization."""

    @staticmethod
    def adam(p: Array, g: Array, m: Array, v: Array, step: int, **hyper: Any) -> Any:
        return NumpyBackend.adam(p, g, m, v, step, **(hyper | {"decoupled": False}))


@_killed_by("optimizer_step_32bit/adam/float32/plain")
class _FactorsInFloat32(NumpyBackend):
    """1 − β₂ is computed in float32, off by up to 1000 roundings."""

    @staticmethod
    def adam(p: Array, g: Array, m: Array, v: Array, step: int, **hyper: Any) -> Any:
        kept = 1 - float(np.float32(1) - np.float32(hyper["beta2"]))
        return NumpyBackend.adam(p, g, m, v, step, **(hyper | {"beta2": kept}))


@_killed_by("optimizer_step_8bit/adam/float32/plain")
class _CodesTooHigh(NumpyBackend):
    """The second moment's codes are taken one too high."""

    def optimizer_step_8bit(
        self, rule: str, params: Any, grads: Any, codes: Any, *rest: Any, **hyper: Any
    ) -> None:
        super().optimizer_step_8bit(rule, params, grads, codes, *rest, **hyper)
        for state in codes[len(params) :]:
            stored = _bytes(state)
            stored[stored < 255] += 1


@_killed_by("quantize_4bit/nf4/b4096/float32/random")
class _ClaimsTooMuch(NumpyBackend):
    """Block size 4096 is declared, and refused."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        if options["blocksize"] == 4096:
            raise NotImplementedError("blocksize 4096")
        super().quantize_4bit(A, packed, absmax, **options)


@_killed_by("linear_4bit/nf4/b64/float32/m0-n16-k64")
class _CrashesWhenEmpty(NumpyBackend):
    """An empty input divides by the number of rows."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        assert 1 // x.shape[0] >= 0
        super().linear_4bit(x, packed, scales, bias, out, **o)
