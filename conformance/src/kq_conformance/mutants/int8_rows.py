"""Mistakes in quantizing rows to int8, and in decoding them."""

from typing import Any

import numpy as np

from kq_conformance import reference
from kq_conformance.floats import BFLOAT16, FLOAT16, FLOAT32, FORMATS, Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import INT8_LARGEST, Int8Rows
from kq_conformance.reference_backend import ReferenceBackend, format_of, memory

__all__: list[str] = []

_QUANT, _DEQUANT = "int8_vectorwise_quant/int8", "int8_vectorwise_dequant/int8"
_TILE = 4


@killed_by(f"{_QUANT}/float32/threshold-at")
class ThresholdExclusive(ReferenceBackend):
    """An outlier must be larger than the threshold."""

    def outlier_elements(self, x: Float64, threshold: float) -> Array:
        with np.errstate(invalid="ignore"):
            return (np.abs(x) > threshold) & (threshold > 0)


@killed_by(f"{_QUANT}/bfloat16/threshold-above")
class ThresholdInTheTypeOfTheInput(ReferenceBackend):
    """The threshold is rounded to the 16 bits of the numbers that it is compared with."""

    def int8_vectorwise_quant(self, A: Any, *results: Any, threshold: float) -> None:
        rounded = float(FORMATS[format_of(A)].round(threshold))
        super().int8_vectorwise_quant(A, *results, threshold=rounded)


@killed_by(f"{_QUANT}/float32/threshold-between")
class ThresholdInFloat32(ReferenceBackend):
    """The threshold is rounded to the nearest float32, below what it was."""

    def outlier_elements(self, x: Float64, threshold: float) -> Array:
        return super().outlier_elements(x, float(FLOAT32.round(threshold)))


@killed_by(f"{_QUANT}/float32/random")
class CodesTruncated(ReferenceBackend):
    """A conversion to an integer cuts off the fraction."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        ratios = np.where(outliers, 0.0, reference.int8_ratios(x, absmax))
        return np.trunc(ratios).astype(np.int64)


@killed_by(f"{_QUANT}/float32/ties")
class HalfAwayFromZero(ReferenceBackend):
    """Ties are rounded away from zero."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        ratios = np.where(outliers, 0.0, reference.int8_ratios(x, absmax))
        away: Array = np.copysign(np.floor(np.abs(ratios) + 0.5), ratios).astype(np.int64)
        return away


@killed_by(f"{_QUANT}/float32/random")
class LowestCodeUsed(ReferenceBackend):
    """Codes span all that int8 has: 128 x / absmax, from -128 to 127."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        ratios = np.where(outliers, 0.0, reference.int8_ratios(x, absmax))
        return np.clip(np.rint(ratios * 128 / 127), -128, 127).astype(np.int64)


@killed_by(f"{_QUANT}/bfloat16/sweep-anchored")
class RatioInBfloat16(ReferenceBackend):
    """A bfloat16 row is scaled in bfloat16."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        ratios = np.where(outliers, 0.0, reference.int8_ratios(x, absmax))
        return np.rint(BFLOAT16.round(ratios)).astype(np.int64)


@killed_by(f"{_QUANT}/float32/random")
class AbsmaxOverTheLargestCode(ReferenceBackend):
    """The stored scale is already divided by 127."""

    def int8_vectorwise_quant(
        self, A: Any, codes: Any, absmax: Any, outliers: Any, *, threshold: float
    ) -> None:
        super().int8_vectorwise_quant(A, codes, absmax, outliers, threshold=threshold)
        self.store(absmax, self.load(absmax) / INT8_LARGEST)


@killed_by(f"{_QUANT}/float32/random")
class AbsmaxInFloat16(ReferenceBackend):
    """The scale of a row is computed in float16, as bitsandbytes does on GPUs."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        return FLOAT16.round(super().row_absmax(x, left_out))


@killed_by(f"{_QUANT}/float32/outliers")
class AbsmaxOverOutliers(ReferenceBackend):
    """Outliers count for the scale of their row."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        return super().row_absmax(x, np.zeros_like(left_out))


@killed_by(f"{_QUANT}/float32/outliers")
class OutlierColumnsDoNotCount(ReferenceBackend):
    """The scale of a row leaves out the whole columns that hold outliers of other rows."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        return super().row_absmax(x, left_out | left_out.any(axis=0))


@killed_by(f"{_QUANT}/float32/outliers")
class OutlierColumnsKeepTheirCodes(ReferenceBackend):
    """Outliers saturate, and their columns keep their codes."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        del outliers
        ratios = reference.int8_ratios(x, absmax)
        return np.clip(np.rint(ratios), -INT8_LARGEST, INT8_LARGEST).astype(np.int64)


@killed_by(f"{_QUANT}/float32/outliers")
class OnlyOutliersCleared(ReferenceBackend):
    """An outlier gets the code 0, and the rest of its column keeps its codes."""

    def quantized(self, x: Float64, threshold: float) -> Int8Rows:
        rows = super().quantized(x, threshold)
        elements = self.outlier_elements(x, threshold)
        ratios = np.where(elements, 0.0, reference.int8_ratios(x, rows.absmax))
        return rows._replace(codes=np.rint(ratios).astype(np.int64))


@killed_by(f"{_QUANT}/float32/outliers")
class OutliersOfTheLastTile(ReferenceBackend):
    """Each tile of four rows overwrites what the one before has found."""

    def quantized(self, x: Float64, threshold: float) -> Int8Rows:
        rows = super().quantized(x, threshold)
        elements = self.outlier_elements(x, threshold)
        last = np.asarray(elements[max(len(x) - 1, 0) // _TILE * _TILE :].any(axis=0))
        return rows._replace(outliers=last)


@killed_by(f"{_QUANT}/float32/empty-r0-c64/outliers")
class OutliersOfNoRowsNotWritten(ReferenceBackend):
    """A call without rows returns before the flags of the columns are cleared."""

    def int8_vectorwise_quant(self, A: Any, *results: Any, threshold: float) -> None:
        if A.shape[0]:
            super().int8_vectorwise_quant(A, *results, threshold=threshold)


@killed_by(f"{_QUANT}/float32/outliers", ledger="D26")
class RestoresOutliers(ReferenceBackend):
    """Outliers are set to zero in the caller's tensor while it is quantized, and then restored."""

    def int8_vectorwise_quant(self, A: Any, *results: Any, threshold: float) -> None:
        values = self.load(A)
        if threshold:
            self.store(A, np.where(self.outlier_elements(values, threshold), 0.0, values))
            self.store(A, values)
        super().int8_vectorwise_quant(A, *results, threshold=threshold)


@killed_by(f"{_QUANT}/float32/zeros", ledger="D26")
class ScaleOfZerosIsOne(ReferenceBackend):
    """A row of zeros gets the scale 1, so that nothing is divided by zero."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        absmax = super().row_absmax(x, left_out)
        return np.where(absmax == 0, 1.0, absmax)


@killed_by(f"{_QUANT}/float32/small")
class InverseOverflows(ReferenceBackend):
    """127 / absmax is infinite where the scale is tiny, and all codes saturate."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        codes = super().row_codes(x, absmax, outliers)
        usable = (absmax > 0) & np.isfinite(absmax)
        inverse = FLOAT32.round(INT8_LARGEST / np.where(usable, absmax, 1.0))
        saturated = np.sign(codes) * INT8_LARGEST
        return np.where(np.isinf(inverse)[:, None], saturated, codes)


@killed_by(f"{_QUANT}/float32/denormals")
class SubnormalsAreZeros(ReferenceBackend):
    """The processor takes numbers below the normal range as zero."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        return super().row_absmax(np.where(np.abs(x) < 2.0**FLOAT32.emin, 0.0, x), left_out)


@killed_by(f"{_QUANT}/float32/nonfinite")
class NanIgnoredByTheMaximum(ReferenceBackend):
    """A comparison with NaN is false, so that the largest other number of the row is its scale."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        return super().row_absmax(np.where(np.isnan(x), 0.0, x), left_out)

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        return super().row_codes(np.where(np.isnan(x), 0.0, x), absmax, outliers)


@killed_by(f"{_QUANT}/float32/nonfinite/outliers")
class NanIsAnOutlier(ReferenceBackend):
    """What is not below the threshold is an outlier, NaN too, and no longer spoils its row."""

    def outlier_elements(self, x: Float64, threshold: float) -> Array:
        with np.errstate(invalid="ignore"):
            return ~(np.abs(x) < threshold) & (threshold > 0)


@killed_by(f"{_QUANT}/float32/nonfinite/outliers")
class InfinityIsNoOutlier(ReferenceBackend):
    """Outliers are finite, and an infinity spoils its row whatever the threshold."""

    def outlier_elements(self, x: Float64, threshold: float) -> Array:
        return super().outlier_elements(x, threshold) & np.isfinite(x)


@killed_by(f"{_QUANT}/float32/long-row")
class ColumnsBeyond16BitsDoNotCount(ReferenceBackend):
    """Stands for an overflow: the maximum ends after 65,536 columns."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        return super().row_absmax(x[:, : 1 << 16], left_out[:, : 1 << 16])


@killed_by(f"{_DEQUANT}/float32/all-codes")
class CodesReadAsBytes(ReferenceBackend):
    """The codes are decoded as if they had no sign."""

    def row_values(self, codes: Array, absmax: Float64) -> Float64:
        return super().row_values(codes % 256, absmax)


@killed_by(f"{_DEQUANT}/float32/all-codes")
class DecodedBy128(ReferenceBackend):
    """A code is worth absmax / 128."""

    def row_values(self, codes: Array, absmax: Float64) -> Float64:
        return super().row_values(codes, absmax) * 127 / 128


@killed_by(f"{_DEQUANT}/float32/all-codes")
class DecodingOverflowsOnTheWay(ReferenceBackend):
    """The product of code and scale is rounded before 127 divides it, and may be infinite."""

    def row_values(self, codes: Array, absmax: Float64) -> Float64:
        with np.errstate(invalid="ignore"):
            decoded: Float64 = FLOAT32.round(codes * absmax[:, None]) / INT8_LARGEST
        return decoded


@killed_by(f"{_DEQUANT}/bfloat16/all-codes")
class ScaleDecodedInBfloat16(ReferenceBackend):
    """The scale is rounded to the type of the result before it is multiplied."""

    def int8_vectorwise_dequant(self, codes: Any, absmax: Any, out: Any) -> None:
        scale = FORMATS[format_of(out)].round(self.load(absmax))
        self.store(out, FLOAT32.round(self.row_values(self.int8(codes), scale)))


@killed_by(f"{_DEQUANT}/float32/tail-c65")
class LastDecodedNotWritten(ReferenceBackend):
    """The last element of the result keeps what was in the buffer."""

    def int8_vectorwise_dequant(self, codes: Any, absmax: Any, out: Any) -> None:
        size = out.element_size() if out.numel() else 0
        before = memory(out)[-size:].copy() if size else None
        super().int8_vectorwise_dequant(codes, absmax, out)
        if before is not None:
            memory(out)[-size:] = before
