"""Mistakes in quantizing: scales and codes."""

from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, FLOAT16, FLOAT32, Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import Codebook, codebook_8bit
from kq_conformance.reference_backend import ReferenceBackend

__all__: list[str] = []

_WRAP = 1 << 16


@killed_by("quantize_4bit/nf4/b64/float32/random")
class SwappedNibbles(ReferenceBackend):
    """The first code of a pair is packed into the low nibble."""

    def pack(self, codes: Array, zero: int) -> Array:
        packed = super().pack(codes, zero)
        return (packed << 4) | (packed >> 4)


@killed_by("quantize_blockwise/even/b256/float32/midpoints")
class TiesUpward(ReferenceBackend):
    """A ratio exactly at a midpoint gets the upper code."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        codes = super().encode(x, scale, book)
        index = book.rank[codes]
        above = book.thresholds[np.minimum(index, len(book.thresholds) - 1)]
        with np.errstate(invalid="ignore"):
            tie = (x == above * scale) & (scale > 0) & np.isfinite(scale)
        upper: Array = book.order[np.minimum(index + tie, len(book.order) - 1)]
        return upper.astype(np.uint8)


@killed_by("quantize_4bit/nf4/b64/float32/midpoints")
class ReciprocalInFloat32(ReferenceBackend):
    """The ratio is x times the rounded reciprocal of the scale: one code off beside a midpoint."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        usable = (scale > 0) & np.isfinite(scale)
        with np.errstate(invalid="ignore"):
            reciprocal = FLOAT32.round(1 / np.where(usable, scale, 1.0))
            ratio = FLOAT32.round(np.where(usable, x * reciprocal, 0.0))
        index = np.searchsorted(FLOAT32.round(book.thresholds), ratio)
        return np.where(usable, book.order[index], book.zero).astype(np.uint8)


@killed_by("quantize_4bit/nf4/b64/float32/midpoints")
class MidpointsInFloat32(ReferenceBackend):
    """The ratio is compared with midpoints that were rounded to float32."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        usable = (scale > 0) & np.isfinite(scale)
        ratio = np.where(usable, x, 0.0) / np.where(usable, scale, 1.0)
        index = np.searchsorted(FLOAT32.round(book.thresholds), ratio)
        return np.where(usable, book.order[index], book.zero).astype(np.uint8)


@killed_by("quantize_4bit/nf4/b64/float32/midpoints")
class QuotientInFloat32(ReferenceBackend):
    """The ratio is a float32 division, whose rounding may reach a midpoint."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        usable = (scale > 0) & np.isfinite(scale)
        ratio = np.where(usable, x, 0.0) / np.where(usable, scale, 1.0)
        index = np.searchsorted(book.thresholds, FLOAT32.round(ratio))
        return np.where(usable, book.order[index], book.zero).astype(np.uint8)


@killed_by("quantize_blockwise/dynamic-signed/b256/float32/zeros", ledger="D1")
class CoarseLookup(ReferenceBackend):
    """Codes are looked up in 65,536 equal bins: some cannot be reached, and zero is none."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        usable = (scale > 0) & np.isfinite(scale)
        ratio = np.where(usable, x, 0.0) / np.where(usable, scale, 1.0)
        # The number that stands for a bin is its middle, so that no bin stands for zero.
        middle = (np.minimum(np.floor((ratio + 1) * _WRAP / 2), _WRAP - 1) + 0.5) * 2 / _WRAP - 1
        index = np.searchsorted(book.thresholds, middle)
        return np.where(usable, book.order[index], book.zero).astype(np.uint8)


@killed_by("quantize_4bit/nf4/b64/float32/zeros")
class ZeroBlockIsCodeZero(ReferenceBackend):
    """A block of zeros gets code 0, whatever that code means."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        codes = super().encode(x, scale, book)
        return np.where(scale == 0, 0, codes).astype(np.uint8)


@killed_by("quantize_4bit/fp4/b64/float32/midpoints")
class OneZeroOnly(ReferenceBackend):
    """Both zeros of FP4 become code 0, so that small positive numbers lose their sign."""

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        codes = super().encode(x, scale, book)
        return np.where(book.values[codes] == 0, book.zero, codes).astype(np.uint8)


@killed_by("quantize_4bit/nf4/b64/float32/nonfinite", ledger="D22")
class NanSkipped(ReferenceBackend):
    """The maximum skips NaN, as fmax and many reductions on GPUs do."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return super().absmax(np.where(np.isnan(x), 0.0, x), blocksize)


@killed_by("quantize_4bit/nf4/b64/float32/nonfinite", ledger="D22")
class NanSpreads(ReferenceBackend):
    """A NaN spoils the scale of the block to its right, too."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        absmax = super().absmax(x, blocksize)
        damaged = np.isnan(absmax)
        damaged[:, 1:] |= damaged[:, :-1].copy()
        return np.where(damaged, np.nan, absmax)


@killed_by("quantize_4bit/nf4/b64/float32/nonfinite", ledger="D22")
class NanKeepsItsBits(ReferenceBackend):
    """The scale of a damaged block is the NaN that was found, with its sign and payload."""

    def quantize_4bit(self, A: Any, packed: Any, absmax: Any, **options: Any) -> None:
        super().quantize_4bit(A, packed, absmax, **options)
        scales = self.load(absmax)
        bits = FLOAT32.encode(scales)
        self.write(absmax, np.where(np.isnan(scales), bits | np.uint32(1 << 31), bits))


@killed_by("quantize_4bit/nf4/b64/float32/nonfinite")
class InfinityClamped(ReferenceBackend):
    """An infinity is taken for the largest finite number."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return super().absmax(np.clip(x, -FLOAT32.largest, FLOAT32.largest), blocksize)


@killed_by("quantize_4bit/nf4/b64/float32/tail-c65")
class TailBlockIgnored(ReferenceBackend):
    """The short block at the end of a row gets no scale."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        absmax = super().absmax(x, blocksize)
        absmax[:, x.shape[1] // blocksize :] = 0
        return absmax


@killed_by("quantize_4bit/nf4/b64/float32/random")
class BlocksDownTheColumns(ReferenceBackend):
    """The maximum is taken over the rows of a column instead of the columns of a row."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        if 0 in x.shape:
            return super().absmax(x, blocksize)
        return np.broadcast_to(np.abs(x).max(axis=0), x.shape)[:, ::blocksize].copy()


@killed_by("quantize_4bit/nf4/b64/float32/random")
class ScaleOfTheRow(ReferenceBackend):
    """One scale for the whole row instead of one for each block."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        absmax = super().absmax(x, blocksize)
        return np.broadcast_to(absmax.max(axis=1, keepdims=True, initial=0), absmax.shape).copy()


@killed_by("quantize_4bit/nf4/b64/float32/random")
class SignForgotten(ReferenceBackend):
    """The scale is the largest number instead of the largest magnitude."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return super().absmax(np.maximum(x, 0.0), blocksize)


@killed_by("quantize_4bit/nf4/b64/float32/denormals")
class SubnormalInputsFlushed(ReferenceBackend):
    """Subnormal inputs count as zero, as with the processor's flag for them."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return super().absmax(np.where(np.abs(x) < 2.0**FLOAT32.emin, 0.0, x), blocksize)


@killed_by("quantize_4bit/nf4/b64/float16/sweep")
class Float16ThroughBfloat16(ReferenceBackend):
    """A float16 input is converted to bfloat16, for which there is a kernel."""

    def load(self, tensor: Any) -> Float64:
        values = super().load(tensor)
        return BFLOAT16.round(values) if tensor.element_size() == 2 else values


@killed_by("quantize_4bit/nf4/b64/float32/spike")
class ScaleInFloat16(ReferenceBackend):
    """Scales are computed in float16, which overflows at 65,520."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return FLOAT16.round(super().absmax(x, blocksize))


@killed_by("quantize_4bit/nf4/b64/float32/tail-c65", ledger="D9")
class PairsAcrossRows(ReferenceBackend):
    """Codes are packed over the whole matrix, so that rows of odd length run into each other."""

    def pack(self, codes: Array, zero: int) -> Array:
        packed = super().pack(codes, zero)
        flat = super().pack(codes.reshape(1, -1), zero).reshape(-1)
        packed.reshape(-1)[: flat.size] = flat
        return packed


@killed_by("quantize_4bit/nf4/b64/float32/tail-c65", ledger="D9")
class LastOfAnOddRowForgotten(ReferenceBackend):
    """Only whole pairs are encoded: the last element of an odd row becomes zero."""

    def pack(self, codes: Array, zero: int) -> Array:
        packed = super().pack(codes, zero)
        if codes.shape[1] % 2:
            packed[:, -1] = zero * 16 + zero
        return packed


@killed_by("quantize_4bit/nf4/b64/float32/tail-c65", ledger="D9")
class PaddedByCodeZero(ReferenceBackend):
    """An odd row is padded by the code 0 instead of the code of zero."""

    def pack(self, codes: Array, zero: int) -> Array:
        del zero
        return super().pack(codes, 0)


@killed_by("quantize_blockwise/dynamic-signed/b256/float32/random")
class OwnDynamicMap(ReferenceBackend):
    """The caller's map is ignored for an own one, in which a line is indented too little.

    Historic: in the loop that makes the dynamic map, the line that adds the negative values stood
    after the loop, so that only the largest decade had them, and zeros filled the rest.
    """

    def code_map(self, values: Float64) -> Codebook:
        if values[0] == 0:  # the unsigned map has no such line
            return super().code_map(values)
        made = [0.0, 1.0]
        for decade in range(7):
            grid = np.linspace(0.1, 1, 2**decade + 1)
            means = 10.0 ** (decade - 6) * (grid[:-1] + grid[1:]) / 2
            made += means.tolist()
        made += (-means).tolist()
        made += [0.0] * (256 - len(made))
        return codebook_8bit(FLOAT32.round(np.sort(made)))


@killed_by("quantize_4bit/nf4/b64/float32/long-row")
class IndexInARowWraps(ReferenceBackend):
    """Stands for an overflow: the index of an element in its row has 16 bits."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return super().absmax(x[:, np.arange(x.shape[1]) % _WRAP], blocksize)


@killed_by("quantize_blockwise/dynamic-signed/b256/float32/many-rows")
class IndexOfARowWraps(ReferenceBackend):
    """Stands for an overflow: the index of a row has 16 bits."""

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        return super().absmax(x[np.arange(x.shape[0]) % _WRAP], blocksize)
