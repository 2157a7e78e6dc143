"""Row-wise int8 quantization and the products that are made of it: LLM.int8().

Source: Dettmers, Lewis, Belkada and Zettlemoyer, LLM.int8(): 8-bit matrix multiplication for
transformers at scale (arXiv:2208.07339), sections 2 and 3. A row's scale is its largest magnitude
as it stands, and 127 divides when codes are decoded. Codes are int8 in -127 ... 127; sums of them
are int64 here, whose range no product of the suite comes near.
"""

from typing import NamedTuple

import numpy as np

from kq_conformance.floats import Array, Float64

__all__ = [
    "INT8_LARGEST",
    "INT8_MAX_COLS",
    "Int8Rows",
    "int8_absmax",
    "int8_codes",
    "int8_dequantize",
    "int8_linear",
    "int8_matmul",
    "int8_outlier_elements",
    "int8_quantize",
    "int8_ratios",
    "int8_scales",
]

INT8_LARGEST = 127
INT8_MAX_COLS = 1 << 17
"""The longest sum of products of codes that an int32 is sure to hold."""


class Int8Rows(NamedTuple):
    """A matrix quantized by rows.

    Attributes:
        codes: int64 [R, C], -127 ... 127.
        absmax: float64 [R], exact in the type of the input.
        outliers: bool [C]: whether a column holds an outlier, and its codes are 0.
    """

    codes: Array
    absmax: Float64
    outliers: Array


def int8_outlier_elements(x: Float64, threshold: float) -> Array:
    """Which elements of x are at least `threshold` in magnitude: bool; none if it is 0.

    NaN is no outlier; an infinity is one.
    """
    with np.errstate(invalid="ignore"):
        return (np.abs(x) >= threshold) & (threshold > 0)


def int8_absmax(x: Float64, left_out: Array) -> Float64:
    """The largest magnitude of each row of x [R, C] but for the elements that are left out: [R].

    NaN if the row holds one; 0 if it has no other elements.
    """
    absmax: Float64 = np.where(left_out, 0.0, np.abs(x)).max(axis=1, initial=0.0)
    return np.where(np.isnan(absmax), np.nan, absmax)


def int8_ratios(x: Float64, absmax: Float64) -> Float64:
    """127 x / absmax, of which a code is the nearest integer; 0 where a row has no finite scale.

    The product is exact and the quotient rounded to float64, which hides no tie and makes none: of
    float32 numbers, a ratio that is not k + 1/2 differs from it by more than 2**-36.

    Args:
        x: float64 [R, C].
        absmax: float64 [R].

    Returns:
        float64 [R, C]; NaN and infinities of x stay what they are.
    """
    usable = (absmax > 0) & np.isfinite(absmax)
    with np.errstate(invalid="ignore"):  # a signaling NaN
        ratio: Float64 = INT8_LARGEST * x / np.where(usable, absmax, 1.0)[:, None]
    return np.where(usable[:, None], ratio, 0.0)


def int8_codes(x: Float64, absmax: Float64, outliers: Array) -> Array:
    """The nearest codes of x [R, C], even ones of ties; 0 in columns with outliers: int64."""
    ratios = np.where(outliers, 0.0, int8_ratios(x, absmax))
    return np.rint(ratios).astype(np.int64)


def int8_quantize(x: Float64, threshold: float = 0.0) -> Int8Rows:
    """Quantize the rows of x [R, C].

    Outliers do not count for the scale of their row. A number that is none does, also where its
    column holds one in another row. A row with NaN has absmax NaN, and one with an infinity that
    counts has Inf; codes of both are 0.
    """
    elements = int8_outlier_elements(x, threshold)
    absmax, outliers = int8_absmax(x, elements), np.asarray(elements.any(axis=0))
    return Int8Rows(int8_codes(x, absmax, outliers), absmax, outliers)


def int8_dequantize(codes: Array, absmax: Float64) -> Float64:
    """Codes [R, C] · absmax [R] / 127, rounded to float64."""
    with np.errstate(invalid="ignore"):  # 0 · Inf is NaN: the damage of a row shows
        decoded: Float64 = codes * absmax[:, None] / INT8_LARGEST
    return decoded


def int8_matmul(a: Array, b: Array) -> Array:
    """A [M, K] bᵀ of int64 codes, b [N, K]: int64 [M, N], exact.

    Computed in float64, whose 53 bits hold every sum: BLAS is faster than NumPy's integers.
    """
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64).T).astype(np.int64)


def int8_scales(row_absmax: Float64, col_absmax: Float64) -> Float64:
    """What the sums of a product are multiplied with: row_absmax [M] · col_absmax [N] / 127²."""
    with np.errstate(invalid="ignore"):
        return np.outer(row_absmax, col_absmax) / INT8_LARGEST**2


def int8_linear(
    x: Float64,
    codes: Array,
    absmax: Float64,
    bias: Float64 | None = None,
    threshold: float = 0.0,
) -> Float64:
    """X Wᵀ + bias with the rows of x quantized, but for columns with outliers.

    y[m, n] = s[m, n] Σ_k q[m, k] codes[n, k] + Σ_j x[m, j] · codes[n, j] · absmax[n] / 127 + b[n],
    q the codes of x, s as in `int8_scales`, and j the columns in which a row of x has an outlier.

    Args:
        x: float64 [M, K].
        codes: int64 [N, K], of the weight.
        absmax: float64 [N], of the weight.
        bias: float64 [N] or None.
        threshold: what makes an outlier; 0: nothing.

    Returns:
        float64 [M, N], unrounded.
    """
    rows = int8_quantize(x, threshold)
    kept = int8_dequantize(codes[:, rows.outliers], absmax)
    with np.errstate(invalid="ignore"):
        y: Float64 = int8_matmul(rows.codes, codes) * int8_scales(rows.absmax, absmax)
        if rows.outliers.any():
            y = y + x[:, rows.outliers] @ kept.T
    return y if bias is None else y + bias
