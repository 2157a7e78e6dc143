"""Ops kq::int8_vectorwise_quant, its inverse, and the two halves of a product of codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..int8_format import check_inner, check_int8, check_threshold
from ..selection import Query, check_query, choose
from .checks import check_bias, check_tensor, matrix, row_matrix
from .library import register


def check_scales(name: str, absmax: Tensor, shape: Sequence[int], device: torch.device) -> None:
    """Raise unless a tensor can be the float32 scales of rows in this shape."""
    check_tensor(name, absmax, torch.float32, math.prod(shape), device)
    if tuple(absmax.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(absmax.shape)}")


def _check_rows(name: str, tensor: Tensor) -> None:
    if tensor.ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got shape ()")


def _check_quantize(A: Tensor, threshold: float) -> Query:
    check_threshold(threshold)
    _check_rows("A", A)
    return Query("int8_vectorwise_quant", A.device.type, A.dtype)


def _new_results(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    codes = A.new_empty(A.shape, dtype=torch.int8)
    absmax = A.new_empty(A.shape[:-1], dtype=torch.float32)
    return codes, absmax, A.new_empty(A.shape[-1] if threshold > 0 else 0, dtype=torch.bool)


def _quantize(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    backend = choose(_check_quantize(A, threshold))
    codes, absmax, outliers = _new_results(A, threshold)
    rows, cols = absmax.numel(), A.shape[-1]
    backend.int8_vectorwise_quant(
        row_matrix(A, rows, cols),
        codes.view(rows, cols),
        absmax.view(rows),
        outliers if threshold > 0 else None,
        threshold=threshold,
    )
    return codes, absmax, outliers


def _quantize_fake(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    check_query(_check_quantize(A, threshold))
    return _new_results(A, threshold)


def _check_dequantize(codes: Tensor, absmax: Tensor, dtype: torch.dtype) -> Query:
    check_int8("codes", codes.dtype)
    _check_rows("codes", codes)
    check_scales("absmax", absmax, codes.shape[:-1], codes.device)
    return Query("int8_vectorwise_dequant", codes.device.type, dtype)


def _dequantize(codes: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    backend = choose(_check_dequantize(codes, absmax, dtype))
    out = codes.new_empty(codes.shape, dtype=dtype)
    rows, cols = absmax.numel(), codes.shape[-1]
    backend.int8_vectorwise_dequant(
        matrix(codes, rows, cols), absmax.contiguous().view(rows), out.view(rows, cols)
    )
    return out


def _dequantize_fake(codes: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    check_query(_check_dequantize(codes, absmax, dtype))
    return codes.new_empty(codes.shape, dtype=dtype)


def _check_multiply(A: Tensor, B: Tensor) -> Query:
    check_int8("A", A.dtype)
    check_int8("B", B.dtype)
    _check_rows("A", A)
    if B.ndim != 2 or B.shape[1] != A.shape[-1]:
        raise ValueError(
            f"B must have shape (N, {A.shape[-1]}), as the last dimension of A is, "
            f"got {tuple(B.shape)}"
        )
    if B.device != A.device:
        raise ValueError(f"B must be on {A.device} like A, got {B.device}")
    check_inner(A.shape[-1])
    return Query("int8_linear_matmul", A.device.type, A.dtype)


def _multiply(A: Tensor, B: Tensor) -> Tensor:
    backend = choose(_check_multiply(A, B))
    n, k = B.shape
    m = math.prod(A.shape[:-1])
    out = A.new_empty((*A.shape[:-1], n), dtype=torch.int32)
    backend.int8_linear_matmul(row_matrix(A, m, k), matrix(B, n, k), out.view(m, n))
    return out


def _multiply_fake(A: Tensor, B: Tensor) -> Tensor:
    check_query(_check_multiply(A, B))
    return A.new_empty((*A.shape[:-1], B.shape[0]), dtype=torch.int32)


def _check_scale(
    A: Tensor, row_absmax: Tensor, col_absmax: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Query:
    query = Query("int8_mm_dequant", A.device.type, dtype)
    check_query(query)
    check_tensor("A", A, torch.int32, A.numel(), A.device)
    _check_rows("A", A)
    check_scales("row_absmax", row_absmax, A.shape[:-1], A.device)
    check_scales("col_absmax", col_absmax, A.shape[-1:], A.device)
    check_bias(bias, dtype, A.shape[-1], A.device)
    return query


def _scale(
    A: Tensor, row_absmax: Tensor, col_absmax: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    backend = choose(_check_scale(A, row_absmax, col_absmax, bias, dtype))
    out = A.new_empty(A.shape, dtype=dtype)
    m, n = row_absmax.numel(), A.shape[-1]
    backend.int8_mm_dequant(
        row_matrix(A, m, n),
        row_absmax.contiguous().view(m),
        col_absmax.contiguous(),
        None if bias is None else bias.contiguous(),
        out.view(m, n),
    )
    return out


def _scale_fake(
    A: Tensor, row_absmax: Tensor, col_absmax: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    _check_scale(A, row_absmax, col_absmax, bias, dtype)
    return A.new_empty(A.shape, dtype=dtype)


int8_vectorwise_quant = register(
    "int8_vectorwise_quant(Tensor A, float threshold) "
    "-> (Tensor codes, Tensor absmax, Tensor outliers)",
    _quantize,
    _quantize_fake,
)
int8_vectorwise_dequant = register(
    "int8_vectorwise_dequant(Tensor codes, Tensor absmax, ScalarType dtype) -> Tensor",
    _dequantize,
    _dequantize_fake,
)
int8_linear_matmul = register(
    "int8_linear_matmul(Tensor A, Tensor B) -> Tensor", _multiply, _multiply_fake
)
int8_mm_dequant = register(
    "int8_mm_dequant(Tensor A, Tensor row_absmax, Tensor col_absmax, Tensor? bias, "
    "ScalarType dtype) -> Tensor",
    _scale,
    _scale_fake,
)
