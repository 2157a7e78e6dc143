"""Row-wise int8 quantization and its products."""

import math
from typing import Any

import numpy as np

from kq_conformance import reference
from kq_conformance.floats import FLOAT32, Array, Float64, stored_integers
from kq_conformance.reference import INT8_MAX_COLS, Int8Rows
from kq_conformance.reference_backend.memory import Memory, format_of

__all__ = ["Int8"]


class Int8(Memory):
    """The six int8 operations and their parts."""

    # Arguments.

    def check_threshold(self, threshold: float) -> None:
        """Refuse what is no threshold.

        Raises:
            ValueError: naming the argument.
        """
        if not (math.isfinite(threshold) and threshold >= 0):
            raise ValueError(f"threshold must be finite and at least 0, got {threshold!r}")

    def check_cols(self, cols: int) -> None:
        """Refuse sums that an int32 may not hold.

        Raises:
            ValueError: naming the limit.
        """
        if cols > INT8_MAX_COLS:
            raise ValueError(f"K must be at most {INT8_MAX_COLS}, got {cols}")

    # The steps of the operations.

    def outlier_elements(self, x: Float64, threshold: float) -> Array:
        """Which elements of x [R, C] are outliers."""
        return reference.int8_outlier_elements(x, threshold)

    def row_absmax(self, x: Float64, left_out: Array) -> Float64:
        """The scale of each row of x, from the elements that are not left out."""
        return reference.int8_absmax(x, left_out)

    def row_codes(self, x: Float64, absmax: Float64, outliers: Array) -> Array:
        """The codes of x [R, C]; 0 in the columns of `outliers`."""
        return reference.int8_codes(x, absmax, outliers)

    def quantized(self, x: Float64, threshold: float) -> Int8Rows:
        """X [R, C] by rows; shared by the quantizer and the linear layer."""
        elements = self.outlier_elements(x, threshold)
        absmax, outliers = self.row_absmax(x, elements), np.asarray(elements.any(axis=0))
        return Int8Rows(self.row_codes(x, absmax, outliers), absmax, outliers)

    def int8(self, tensor: Any) -> Array:
        """Read codes: int64, in the shape of the tensor."""
        return self.load(tensor).astype(np.int64)

    def write_integers(self, tensor: Any, values: Array) -> None:
        """Write integers or truth values."""
        self.write(tensor, stored_integers(values, format_of(tensor)).bits)

    def row_values(self, codes: Array, absmax: Float64) -> Float64:
        """What codes [R, C] stand for, unrounded."""
        return reference.int8_dequantize(codes, absmax)

    def int8_product(self, a: Array, b: Array) -> Array:
        """The sums of a [M, K] bᵀ, b [N, K]."""
        return reference.int8_matmul(a, b)

    def product_scales(self, row_absmax: Float64, col_absmax: Float64) -> Float64:
        """What sums [M, N] are multiplied with."""
        return reference.int8_scales(row_absmax, col_absmax)

    def kept_product(self, x: Float64, codes: Array, absmax: Float64, outliers: Array) -> Float64:
        """The product of the columns of x that hold outliers with those of the weight: [M, N]."""
        kept = self.row_values(codes[:, outliers], absmax)
        with np.errstate(invalid="ignore"):
            return np.asarray(x[:, outliers] @ kept.T)

    def finish(
        self, sums: Array, scales: Float64, kept: Float64 | None, bias: Float64 | None
    ) -> Float64:
        """Scale sums [M, N], and add what there is to add."""
        with np.errstate(invalid="ignore"):
            y: Float64 = sums * scales
            y = y if kept is None else y + kept
            return y if bias is None else y + bias

    # The operations, as `kq_functional.backends.base.Backend` documents them.

    def int8_vectorwise_quant(
        self, A: Any, codes: Any, absmax: Any, outliers: Any, *, threshold: float
    ) -> None:
        """Quantize A [R, C] into codes [R, C], absmax [R] and outliers [C] or None."""
        self.check_threshold(threshold)
        rows = self.quantized(self.load(A), threshold)
        self.write_integers(codes, rows.codes)
        self.store(absmax, rows.absmax)
        if outliers is not None:
            self.write_integers(outliers, rows.outliers)

    def int8_vectorwise_dequant(self, codes: Any, absmax: Any, out: Any) -> None:
        """Decode codes [R, C] into out."""
        values = self.row_values(self.int8(codes), self.load(absmax))
        self.store(out, FLOAT32.round(values))

    def int8_linear_matmul(self, A: Any, B: Any, out: Any) -> None:
        """Multiply: out int32 [M, N] = A [M, K] Bᵀ."""
        self.check_cols(A.shape[1])
        self.write_integers(out, self.int8_product(self.int8(A), self.int8(B)))

    def int8_mm_dequant(
        self, A: Any, row_absmax: Any, col_absmax: Any, bias: Any, out: Any
    ) -> None:
        """Scale the sums A [M, N], and add a bias."""
        scales = self.product_scales(self.load(row_absmax), self.load(col_absmax))
        added = None if bias is None else self.load(bias)
        self.store(out, self.finish(self.int8(A), scales, None, added))

    def int8_linear(
        self, x: Any, weight: Any, absmax: Any, bias: Any, out: Any, *, threshold: float
    ) -> None:
        """Multiply: out [M, N] = x [M, K] Wᵀ + bias."""
        self.check_threshold(threshold)
        self.check_cols(x.shape[1])
        values, codes, scale = self.load(x), self.int8(weight), self.load(absmax)
        rows = self.quantized(values, threshold)
        found = rows.outliers.any()
        kept = self.kept_product(values, codes, scale, rows.outliers) if found else None
        scales = self.product_scales(rows.absmax, scale)
        added = None if bias is None else self.load(bias)
        self.store(out, self.finish(self.int8_product(rows.codes, codes), scales, kept, added))

    def int8_linear_backward(self, grad: Any, weight: Any, absmax: Any, out: Any) -> None:
        """Multiply: out [M, K] = grad [M, N] W."""
        values = self.row_values(self.int8(weight), self.load(absmax))
        self.store(out, reference.linear_backward(self.load(grad), values))
