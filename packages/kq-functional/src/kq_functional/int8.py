"""LLM.int8(): quantization of rows and columns, and the two halves of a product of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import check_dtypes, check_optional_tensors, check_tensors
from .int8_format import check_threshold
from .ops import int8 as ops
from .ops.int8_columns import int8_columnwise_quant


def int8_vectorwise_quant(
    A: Tensor, threshold: float = 0.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Quantize the rows of a tensor to int8 codes with one scale a row.

    A code is the integer nearest to 127 × x / absmax, with ties to the even one, computed in
    float32 as x times the rounded 127 / absmax; absmax is the largest magnitude of the row, not
    divided by 127. With a threshold above 0, elements with |x| >= threshold are outliers (infinity
    is, NaN is not): they do not count for absmax, and in each column that has one, in any row,
    all codes are 0. A is not changed. A row with NaN gets absmax NaN, one with an infinity that
    counts (and no NaN) gets infinity; codes of both are 0, as in rows of zeros.

    Args:
        A: float32, bfloat16 or float16, [..., C]; strided or empty, but not without dimensions.
        threshold: Finite, at least 0; 0 means that there are no outliers.

    Returns:
        The codes, int8 in the shape of A; absmax, float32 [...]; and the outlier columns in
        ascending order, int64 [J], or None if threshold is 0. To return these, a call waits for
        the device.

    Raises:
        TypeError, ValueError: An argument is out of range; the message names it.
    """
    check_tensors(A=A)
    check_threshold(threshold)
    codes, absmax, outliers = ops.int8_vectorwise_quant(A.detach(), threshold)
    return codes, absmax, _columns(outliers) if threshold > 0 else None


def _columns(outliers: Tensor) -> Tensor:
    return outliers.nonzero().flatten()


def int8_vectorwise_dequant(
    codes: Tensor, absmax: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Decode int8 codes: code × absmax / 127 in float32, rounded once to the result's dtype.

    Args:
        codes: int8, [..., C].
        absmax: float32, [...]: one scale a row.
        dtype: Of the result: float32, bfloat16 or float16.

    Returns:
        A tensor of the shape of codes. Outliers are not among the codes: they decode to 0.

    Raises:
        TypeError, ValueError: An argument does not fit; the message names it.
    """
    check_tensors(codes=codes, absmax=absmax)
    check_dtypes(dtype=dtype)
    decoded: Tensor = ops.int8_vectorwise_dequant(codes, absmax.detach(), dtype)
    return decoded


def int8_double_quant(
    A: Tensor, threshold: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Quantize a tensor twice, as `int8_vectorwise_quant` does: by rows, and by columns.

    A column is that of the matrix of all rows. The outliers are the same for both: they count for
    no scale, and the codes of columns that have one are 0.

    Args:
        A: float32, bfloat16 or float16, [..., C]; strided or empty, but not without dimensions.
        threshold: Finite, at least 0; 0 means that there are no outliers.

    Returns:
        The codes by rows and those by columns, int8 in the shape of A; the scales of rows, float32
        [...], and of columns, float32 [C]; and the outlier columns, int64 [J], or None if
        threshold is 0.

    Raises:
        TypeError, ValueError: An argument is out of range; the message names it.
    """
    codes, absmax, columns = int8_vectorwise_quant(A, threshold)
    matrix = A.detach().reshape(absmax.numel(), A.shape[-1])
    turned, col_absmax, _ = int8_columnwise_quant(matrix, threshold)
    return codes, turned.t().reshape(A.shape), absmax, col_absmax, columns


def int8_linear_matmul(A: Tensor, B: Tensor) -> Tensor:
    """Multiply int8 codes exactly: A @ B.T in int32.

    Args:
        A: int8, [..., K], K at most 2^17, so that sums of codes from -127 to 127 fit.
        B: int8, [N, K].

    Returns:
        int32, [..., N].

    Raises:
        TypeError, ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
    """
    check_tensors(A=A, B=B)
    product: Tensor = ops.int8_linear_matmul(A, B)
    return product


def int8_mm_dequant(
    A: Tensor,
    row_absmax: Tensor,
    col_absmax: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.float16,
) -> Tensor:
    """Scale a product of int8 codes: A × row_absmax × col_absmax / 127² + bias.

    All in float32, rounded once to the result's dtype.

    Args:
        A: int32, [..., N], as `int8_linear_matmul` returns it.
        row_absmax: float32, [...]: the scales of the rows of the first factor.
        col_absmax: float32, [N]: those of the second.
        bias: [N] in the result's dtype.
        dtype: Of the result: float32, bfloat16 or float16.

    Returns:
        A tensor of the shape of A.

    Raises:
        TypeError, ValueError: An argument does not fit; the message names it.
    """
    check_tensors(A=A, row_absmax=row_absmax, col_absmax=col_absmax)
    check_optional_tensors(bias=bias)
    check_dtypes(dtype=dtype)
    bias = None if bias is None else bias.detach()
    scaled: Tensor = ops.int8_mm_dequant(A, row_absmax.detach(), col_absmax.detach(), bias, dtype)
    return scaled
