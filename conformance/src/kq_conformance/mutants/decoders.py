"""Mistakes in decoding: codebooks, scales, and the roundings of the result."""

from dataclasses import replace
from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, FLOAT32, FORMATS, Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import NESTED_BLOCKSIZE, Codebook
from kq_conformance.reference_backend import ReferenceBackend, format_of

__all__: list[str] = []

_WRAP = 1 << 16


@killed_by("dequantize_4bit/nf4/b64/float32/all-codes")
class CodebookOffByAnUlp(ReferenceBackend):
    """One value of NF4 was typed with a wrong last digit."""

    def codebook(self, quant_type: str) -> Codebook:
        book = super().codebook(quant_type)
        values = book.values.copy()
        values[9] = FLOAT32.step(values[9], 1)
        return replace(book, values=values)


@killed_by("dequantize_blockwise/dynamic-signed/b256/float32/all-codes", ledger="D14")
class ConstantMistyped(ReferenceBackend):
    """A factor is off by 1.8e-5."""

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        return super().decode(codes, scale, book) * (1 + 1.8e-5)


@killed_by("dequantize_4bit/nf4/b64/float32/tail-c65", ledger="D2")
class BlocksInARowRoundedDown(ReferenceBackend):
    """The index of a scale counts floor(C / blocksize) blocks in a row."""

    def spread(self, per_block: Float64, cols: int, blocksize: int) -> Float64:
        if per_block.size:
            rows, blocks = per_block.shape
            index = np.arange(rows)[:, None] * (cols // blocksize) + np.arange(blocks)
            per_block = per_block.reshape(-1)[index]
        return super().spread(per_block, cols, blocksize)


@killed_by("dequantize_4bit/nf4/b64/float32/all-codes")
class LowNibbleFirst(ReferenceBackend):
    """The first code of a pair is taken from the low nibble."""

    def unpack(self, packed: Array, cols: int) -> Array:
        return super().unpack((packed << 4) | (packed >> 4), cols)


@killed_by("dequantize_blockwise/dynamic-signed/b256/float32/all-codes")
class SignedCodes(ReferenceBackend):
    """The bytes of 8-bit codes are read as signed numbers."""

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        if len(book.values) == 256:
            codes = np.maximum(codes.astype(np.int8), 0).astype(np.uint8)
        return super().decode(codes, scale, book)


@killed_by("dequantize_4bit/nf4/b64/float32/nested")
class OffsetInBfloat16(ReferenceBackend):
    """The offset of double-quantized scales is held in bfloat16."""

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        return super().nested(codes, absmax, code, float(BFLOAT16.round(offset)))


@killed_by("dequantize_4bit/nf4/b64/float32/nested")
class OffsetForgotten(ReferenceBackend):
    """The offset of double-quantized scales is not added."""

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        del offset
        return super().nested(codes, absmax, code, 0.0)


@killed_by("dequantize_4bit/nf4/b64/float32/nested")
class NestedGroupsInARow(ReferenceBackend):
    """The groups of 256 scales are counted anew in each row."""

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        group = np.arange(codes.shape[1]) // NESTED_BLOCKSIZE
        with np.errstate(invalid="ignore"):
            return FLOAT32.round(FLOAT32.round(code[codes] * absmax[group]) + offset)


@killed_by("dequantize_4bit/nf4/b64/float32/nested")
class NestedScalesFused(ReferenceBackend):
    """A nested scale is a fused multiply-add, which lacks the rounding of the product."""

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        group = np.arange(codes.size).reshape(codes.shape) // NESTED_BLOCKSIZE
        return FLOAT32.round(code[codes] * absmax[group] + offset)


@killed_by("dequantize_4bit/nf4/b64/float16/all-codes")
class RoundedTwice(ReferenceBackend):
    """A float16 result is rounded to bfloat16 before."""

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        twice = format_of(out) == "float16"
        super().store_decoded(out, BFLOAT16.round(decoded) if twice else decoded)


@killed_by("dequantize_4bit/fp4/b64/bfloat16/all-codes")
class RoundedOnce(ReferenceBackend):
    """The product is rounded to bfloat16 at once, and not to float32 before."""

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        self.store(out, decoded)


@killed_by("dequantize_4bit/nf4/b64/bfloat16/all-codes")
class Truncated(ReferenceBackend):
    """A bfloat16 result is the upper half of the float32 number, not rounded."""

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        if format_of(out) != "bfloat16":
            return super().store_decoded(out, decoded)
        bits = FLOAT32.encode(FLOAT32.round(decoded))
        return self.write(out, (bits >> 16).astype(np.uint16))


@killed_by("dequantize_4bit/nf4/b64/float16/all-codes")
class Saturated(ReferenceBackend):
    """What is too large for the result's type becomes its largest number instead of infinity."""

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        largest = FORMATS[format_of(out)].largest
        finite = np.isfinite(decoded)
        super().store_decoded(out, np.where(finite, np.clip(decoded, -largest, largest), decoded))


@killed_by("dequantize_4bit/nf4/b64/float16/all-codes")
class SubnormalResultsFlushed(ReferenceBackend):
    """Subnormal results become zero."""

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        small = np.abs(decoded) < 2.0 ** FORMATS[format_of(out)].emin
        super().store_decoded(out, np.where(small, np.copysign(0.0, decoded), decoded))


@killed_by("dequantize_4bit/nf4/b64/float32/all-codes")
class MinusZeroLost(ReferenceBackend):
    """Adding to a sum that starts at +0 turns a result of -0 into +0."""

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        super().store_decoded(out, decoded + 0.0)


@killed_by("dequantize_4bit/nf4/b64/float32/all-codes")
class ZeroTimesInfinityIsZero(ReferenceBackend):
    """The code of zero skips the product, so that damaged blocks decode to zeros."""

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        decoded = super().decode(codes, scale, book)
        return np.where(book.values[codes] == 0, 0.0, decoded)


@killed_by("dequantize_4bit/nf4/b64/float32/long-row")
class DecodedIndexInARowWraps(ReferenceBackend):
    """Stands for an overflow: the index of a code in its row has 16 bits."""

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        return super().decode(codes[..., np.arange(codes.shape[-1]) % _WRAP], scale, book)


@killed_by("dequantize_blockwise/dynamic-signed/b256/float32/many-rows")
class DecodedIndexOfARowWraps(ReferenceBackend):
    """Stands for an overflow: the index of a row has 16 bits."""

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        return super().decode(codes[np.arange(codes.shape[0]) % _WRAP], scale, book)
