"""Ops kq::int8_columnwise_quant and kq::int8_outlier_gradient, for gradients of int8 weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import check_dtype
from ..int8_format import check_threshold, float32_threshold
from ..products import is_host, sum_dtype
from ..selection import Query, check_query, choose
from .checks import check_tensor
from .library import register


def _check_quantize(A: Tensor, threshold: float) -> Query:
    check_threshold(threshold)
    if A.ndim != 2:
        raise ValueError(f"A must have two dimensions, got shape {tuple(A.shape)}")
    return Query("int8_vectorwise_quant", A.device.type, A.dtype)


def _new_results(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    rows, cols = A.shape
    codes = A.new_empty(cols, rows, dtype=torch.int8)
    absmax = A.new_empty(cols, dtype=torch.float32)
    return codes, absmax, A.new_empty(cols if threshold > 0 else 0, dtype=torch.bool)


def _quantize(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize the columns as if they were rows, without the outliers."""
    backend = choose(_check_quantize(A, threshold))
    codes, absmax, outliers = _new_results(A, threshold)
    if threshold > 0:
        # In float32: torch would round a threshold to the dtype of A.
        large = A.float().abs() >= float32_threshold(threshold)
        torch.any(large, 0, out=outliers)
        A = A.masked_fill(large, 0)
    columns = A.t().contiguous()
    backend.int8_vectorwise_quant(columns, codes, absmax, None, threshold=0.0)
    if threshold > 0:
        codes.masked_fill_(outliers.unsqueeze(1), 0)
    return codes, absmax, outliers


def _quantize_fake(A: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    check_query(_check_quantize(A, threshold))
    return _new_results(A, threshold)


def _check(grad: Tensor, x: Tensor, outliers: Tensor) -> None:
    check_dtype("grad", grad.dtype)
    check_dtype("x", x.dtype)
    if grad.ndim != 2 or x.ndim != 2 or grad.shape[0] != x.shape[0]:
        raise ValueError(
            "grad and x must be matrices with the same number of rows, "
            f"got shapes {tuple(grad.shape)} and {tuple(x.shape)}"
        )
    check_tensor("grad", grad, grad.dtype, grad.numel(), x.device)
    check_tensor("outliers", outliers, torch.bool, x.shape[1], x.device)


def _gradient(grad: Tensor, x: Tensor, outliers: Tensor) -> Tensor:
    _check(grad, x, outliers)
    dtype = sum_dtype(x.device)
    left = grad.t().to(dtype)
    if not is_host(x.device):  # the number of columns is known to the device only
        return _multiply(left, x.where(outliers, 0).to(dtype))
    gradient = x.new_zeros(left.shape[0], x.shape[1], dtype=torch.float32)
    columns = outliers.nonzero().flatten()
    gradient[:, columns] = _multiply(left, x[:, columns].to(dtype))
    return gradient


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    # Written to a given tensor, which autocast leaves alone.
    product = left.new_empty(left.shape[0], right.shape[1])
    return torch.mm(left, right, out=product).float()


def _gradient_fake(grad: Tensor, x: Tensor, outliers: Tensor) -> Tensor:
    _check(grad, x, outliers)
    return x.new_empty(grad.shape[1], x.shape[1], dtype=torch.float32)


int8_outlier_gradient = register(
    "int8_outlier_gradient(Tensor grad, Tensor x, Tensor outliers) -> Tensor",
    _gradient,
    _gradient_fake,
)
int8_columnwise_quant = register(
    "int8_columnwise_quant(Tensor A, float threshold) "
    "-> (Tensor codes, Tensor absmax, Tensor outliers)",
    _quantize,
    _quantize_fake,
)
