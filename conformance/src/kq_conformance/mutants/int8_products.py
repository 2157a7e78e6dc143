"""Mistakes in the products of int8 codes, and in what is done with them."""

from typing import Any

import numpy as np

from kq_conformance import reference
from kq_conformance.floats import BFLOAT16, FLOAT16, FLOAT32, FORMATS, Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import INT8_LARGEST, Int8Rows
from kq_conformance.reference_backend import ReferenceBackend, format_of

__all__: list[str] = []

_MATMUL, _SCALE = "int8_linear_matmul/int8/int8", "int8_mm_dequant/int8"
_LINEAR, _BACKWARD = "int8_linear/int8", "int8_linear_backward/int8"
_WRAP = 1 << 16
_MISTYPED = 6.200124e-5


def _depth(codes: Array, multiple: int) -> Array:
    """Codes [R, K] with zeros up to a multiple of K."""
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % multiple)))


@killed_by(f"{_MATMUL}/m5-n33-k257")
class PairsSaturate(ReferenceBackend):
    """Two products of a byte and a code are added in 16 bits, which saturate."""

    def int8_product(self, a: Array, b: Array) -> Array:
        left, right = (_depth(each, 2) for each in (a + 128, b))
        pairs = left[:, None, 0::2] * right[:, 0::2] + left[:, None, 1::2] * right[:, 1::2]
        sums: Array = np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(axis=2)
        sums -= 128 * b.sum(axis=1)
        return sums


@killed_by(f"{_MATMUL}/m1-n48-k130")
class SumsWrapIn16Bits(ReferenceBackend):
    """Sums are kept in 16 bits."""

    def int8_product(self, a: Array, b: Array) -> Array:
        return super().int8_product(a, b).astype(np.int16).astype(np.int64)


@killed_by(f"{_MATMUL}/k4099/largest")
class SumsAsFloat32(ReferenceBackend):
    """A float32 product is converted to integers: not exact above 2^24, as in bitsandbytes."""

    def int8_product(self, a: Array, b: Array) -> Array:
        return FLOAT32.round(super().int8_product(a, b)).astype(np.int64)


@killed_by(f"{_MATMUL}/k8193/cancelling")
class PartialSumsInFloat32(ReferenceBackend):
    """The sum is taken in float32, product by product, and loses the last bits of large ones."""

    def int8_product(self, a: Array, b: Array) -> Array:
        if not a.shape[1]:
            return super().int8_product(a, b)
        products = (a[:, None, :] * b).astype(np.float32)
        sums: Array = np.add.accumulate(products, axis=2)[..., -1].astype(np.int64)
        return sums


@killed_by(f"{_MATMUL}/m5-n33-k257/all-codes")
class LowestCodeHasNoMagnitude(ReferenceBackend):
    """Signs are moved from one factor to the other, and the magnitude of -128 saturates to 127."""

    def int8_product(self, a: Array, b: Array) -> Array:
        return super().int8_product(np.maximum(a, -INT8_LARGEST), b)


@killed_by(f"{_MATMUL}/m5-n33-k257")
class PaddingReadFromTheNextRow(ReferenceBackend):
    """Codes are multiplied by fours, and the last four reach into the next row."""

    def int8_product(self, a: Array, b: Array) -> Array:
        missing = -a.shape[1] % 4
        if not missing:
            return super().int8_product(a, b)
        longer = [
            np.concatenate([each, np.roll(each, -1, axis=0)[:, :missing]], axis=1)
            for each in (a, b)
        ]
        return super().int8_product(longer[0], longer[1])


@killed_by(f"{_MATMUL}/m3-n7-k1")
class LastOfTheFoursForgotten(ReferenceBackend):
    """Codes are multiplied by fours, and those that are left over are forgotten."""

    def int8_product(self, a: Array, b: Array) -> Array:
        whole = a.shape[1] // 4 * 4
        return super().int8_product(a[:, :whole], b[:, :whole])


@killed_by(f"{_MATMUL}/m2-n65601-k7")
class IndexOfAnInt8OutputWraps(ReferenceBackend):
    """Stands for an overflow: the index of a row of the weight has 16 bits."""

    def int8_product(self, a: Array, b: Array) -> Array:
        return super().int8_product(a, b[np.arange(len(b)) % _WRAP])


@killed_by(f"{_MATMUL}/m3-n5-k131072")
class IndexOfAnInt8InputWraps(ReferenceBackend):
    """Stands for an overflow: the index of a code in its row has 16 bits."""

    def int8_product(self, a: Array, b: Array) -> Array:
        return super().int8_product(a[:, np.arange(a.shape[1]) % _WRAP], b)


@killed_by(f"{_MATMUL}/refuse-k131073")
class AcceptsSumsOfAnyLength(ReferenceBackend):
    """More products are added up than an int32 is sure to hold."""

    def check_cols(self, cols: int) -> None:
        del cols


@killed_by(f"{_SCALE}/float32/m5-n33", ledger="D14")
class ProductConstantMistyped(ReferenceBackend):
    """The constant is 6.200124e-05, and 1/127² is 6.2000124e-05."""

    def product_scales(self, row_absmax: Float64, col_absmax: Float64) -> Float64:
        with np.errstate(invalid="ignore"):
            return np.outer(row_absmax, col_absmax) * _MISTYPED


@killed_by(f"{_SCALE}/float32/m5-n33")
class ScalesSwapped(ReferenceBackend):
    """The scale of a row is taken by the column, and that of a column by the row."""

    def product_scales(self, row_absmax: Float64, col_absmax: Float64) -> Float64:
        by_row = np.resize(col_absmax, row_absmax.size)
        return super().product_scales(by_row, np.resize(row_absmax, col_absmax.size))


@killed_by(f"{_LINEAR}/float32/m5-n33-k257")
class RowScalesInFloat16(ReferenceBackend):
    """The scales of the rows pass through float16."""

    def product_scales(self, row_absmax: Float64, col_absmax: Float64) -> Float64:
        return super().product_scales(FLOAT16.round(row_absmax), col_absmax)


@killed_by(f"{_SCALE}/float32/m5-n33")
class SumsScaledInFloat16(ReferenceBackend):
    """Every result is made in float16 and converted, as bitsandbytes does on GPUs."""

    def finish(self, *parts: Any) -> Float64:
        return FLOAT16.round(super().finish(*parts))


@killed_by(f"{_SCALE}/bfloat16/m17-n40/bias")
class BiasAddedAfterRounding(ReferenceBackend):
    """The scaled sums are rounded to the type of the result before the bias is added."""

    def int8_mm_dequant(
        self, A: Any, row_absmax: Any, col_absmax: Any, bias: Any, out: Any
    ) -> None:
        super().int8_mm_dequant(A, row_absmax, col_absmax, None, out)
        if bias is not None:
            self.store(out, self.load(out) + self.load(bias))


@killed_by(f"{_SCALE}/float32/m5-n33/bias")
class BiasScaled(ReferenceBackend):
    """The bias is added to the sums, and scaled with them."""

    def finish(
        self, sums: Array, scales: Float64, kept: Float64 | None, bias: Float64 | None
    ) -> Float64:
        return super().finish(sums if bias is None else sums + bias, scales, kept, None)


@killed_by(f"{_LINEAR}/float32/m5-n33-k257/outliers/bias")
class BiasForgottenWithOutliers(ReferenceBackend):
    """The way with outliers is another one, and has no bias."""

    def finish(
        self, sums: Array, scales: Float64, kept: Float64 | None, bias: Float64 | None
    ) -> Float64:
        return super().finish(sums, scales, kept, bias if kept is None else None)


@killed_by(f"{_LINEAR}/float32/m5-n33-k257/outliers")
class OutlierColumnsDropped(ReferenceBackend):
    """Columns with outliers are cleared, and not multiplied otherwise."""

    def kept_product(self, x: Float64, codes: Array, absmax: Float64, outliers: Array) -> Float64:
        return super().kept_product(x, codes, absmax, np.zeros_like(outliers))


@killed_by(f"{_LINEAR}/float32/m5-n33-k257/outliers")
class OutliersOfTheirRowsOnly(ReferenceBackend):
    """A column is multiplied where its row has an outlier, and is lost in the other rows."""

    _threshold = 0.0

    def quantized(self, x: Float64, threshold: float) -> Int8Rows:
        self._threshold = threshold
        return super().quantized(x, threshold)

    def kept_product(self, x: Float64, codes: Array, absmax: Float64, outliers: Array) -> Float64:
        elements = self.outlier_elements(x, self._threshold)
        return super().kept_product(np.where(elements, x, 0.0), codes, absmax, outliers)


@killed_by(f"{_LINEAR}/float32/m5-n33-k257/outliers")
class OutlierColumnsCountedTwice(ReferenceBackend):
    """The codes of columns with outliers are not cleared before they are multiplied."""

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        del outliers
        ratios = np.clip(reference.int8_ratios(x, absmax), -INT8_LARGEST, INT8_LARGEST)
        return np.rint(ratios).astype(np.int64)


@killed_by(f"{_LINEAR}/float32/m5-n33-k257/outliers")
class OutliersInBfloat16(ReferenceBackend):
    """Columns with outliers are multiplied in bfloat16, also for a float32 input."""

    def kept_product(self, x: Float64, codes: Array, absmax: Float64, outliers: Array) -> Float64:
        return super().kept_product(BFLOAT16.round(x), codes, absmax, outliers)


@killed_by(f"{_LINEAR}/bfloat16/m16-n48-k64/outliers")
class OutliersAddedAfterRounding(ReferenceBackend):
    """The product of codes is rounded to the type of the result before outliers are added."""

    _dtype = "float32"

    def int8_linear(self, x: Any, *others: Any, threshold: float) -> None:
        self._dtype = format_of(x)
        super().int8_linear(x, *others, threshold=threshold)

    def finish(
        self, sums: Array, scales: Float64, kept: Float64 | None, bias: Float64 | None
    ) -> Float64:
        scaled = FORMATS[self._dtype].round(super().finish(sums, scales, None, None))
        return super().finish(scaled, np.ones_like(scaled), kept, bias)


@killed_by(f"{_LINEAR}/float32/m5-n33-k257/outliers")
class ThresholdIgnored(ReferenceBackend):
    """The argument is accepted, and outliers are quantized like all numbers."""

    def int8_linear(self, *tensors: Any, threshold: float) -> None:
        del threshold
        super().int8_linear(*tensors, threshold=0.0)


@killed_by(f"{_LINEAR}/float32/threshold-at-m5-n33-k71")
class ThresholdExclusiveInTheLayer(ReferenceBackend):
    """The layer finds its outliers by itself: what is larger than the threshold."""

    def int8_linear(self, *tensors: Any, threshold: float) -> None:
        super().int8_linear(*tensors, threshold=float(np.nextafter(threshold, np.inf)))


@killed_by(f"{_LINEAR}/float32/rows-alone-m5-n33-k257")
class OneScaleForAllRows(ReferenceBackend):
    """The input is quantized with the largest of all numbers, so that a row depends on others."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        absmax = super().row_absmax(x, left_out)
        return np.full_like(absmax, absmax.max(initial=0.0))


@killed_by(f"{_LINEAR}/float32/m5-n33-k257")
class InputCastToFloat16(ReferenceBackend):
    """Inputs of other types are cast to float16 first, as bitsandbytes does."""

    def quantized(self, x: Float64, threshold: float) -> Int8Rows:
        return super().quantized(FLOAT16.round(x), threshold)


@killed_by(f"{_LINEAR}/float32/damaged-m5-n6-k130/bias")
class DamagedRowsAreZeros(ReferenceBackend):
    """Rows with NaN or infinities have codes of zero, and so give zeros."""

    def product_scales(self, row_absmax: Float64, col_absmax: Float64) -> Float64:
        usable = np.where(np.isfinite(row_absmax), row_absmax, 0.0)
        return super().product_scales(usable, col_absmax)


@killed_by(f"{_LINEAR}/float32/tiny-m5-n33-k67")
class TinyRowsAreZeros(ReferenceBackend):
    """A row whose scale cannot be inverted in float32 counts as a row of zeros."""

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        absmax = super().row_absmax(x, left_out)
        return np.where(absmax < 2.0**-121, 0.0, absmax)


@killed_by(f"{_LINEAR}/float32/m37-n129-k197/outliers/bias/threads")
class OutliersDependOnThreads(ReferenceBackend):
    """Each thread adds up its share of the outliers, in float32."""

    def kept_product(self, x: Float64, codes: Array, absmax: Float64, outliers: Array) -> Float64:
        import torch

        columns = np.flatnonzero(outliers)
        total = np.zeros((len(x), len(codes)))
        for share in np.array_split(columns, torch.get_num_threads()):
            own = np.zeros_like(outliers)
            own[share] = True
            part = FLOAT32.round(super().kept_product(x, codes, absmax, own))
            total = FLOAT32.round(total + part)
        return total


@killed_by(f"{_BACKWARD}/float32/m5-n33-k257")
class GradientQuantized(ReferenceBackend):
    """The incoming gradient is quantized like an input."""

    def int8_linear_backward(self, grad: Any, weight: Any, absmax: Any, out: Any) -> None:
        rows = self.quantized(self.load(grad), 0.0)
        decoded = self.row_values(rows.codes, rows.absmax)
        values = self.row_values(self.int8(weight), self.load(absmax))
        self.store(out, reference.linear_backward(decoded, values))


@killed_by(f"{_BACKWARD}/float32/m5-n33-k257")
class GradientByTheScalesOfColumns(ReferenceBackend):
    """The scales belong to the rows of the weight, and are taken for those of its columns."""

    def int8_linear_backward(self, grad: Any, weight: Any, absmax: Any, out: Any) -> None:
        codes, scales = self.int8(weight), self.load(absmax)
        values = codes * np.resize(scales, codes.shape[1]) / INT8_LARGEST
        self.store(out, reference.linear_backward(self.load(grad), values))
