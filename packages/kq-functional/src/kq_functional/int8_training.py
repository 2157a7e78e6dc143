"""The linear layer that is trained in int8: a float weight, quantized in every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_optional_tensors, check_tensors
from .formats import check_dtype
from .int8_format import MAX_INNER, check_threshold
from .operands import autocast
from .ops import int8 as ops
from .ops.checks import check_product
from .ops.int8_columns import int8_columnwise_quant, int8_outlier_gradient
from .ops.int8_linear import int8_linear_backward, int8_linear_inference
from .ops.linear import bias_gradient


def int8_linear_training(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, threshold: float = 0.0
) -> Tensor:
    """Compute x @ W.T + bias as `int8_linear` does, with a float weight W that learns.

    The rows of W are quantized in every call. All gradients are those of the layer as if nothing
    were rounded (straight through), computed as in the paper (Dettmers et al., arXiv 2208.07339,
    and bitsandbytes): that of x with the quantized W; that of W from an int8 product of the
    columns of the incoming gradient and those of x, where the outlier columns of x count
    unquantized. What waits for the backward pass is W in int8 and, if W learns, x: in int8 without
    a threshold, as it is with one.

    Args:
        x: float32, bfloat16 or float16, [..., K]; K is at most 2^17. If W learns, x has at most
            2^17 rows.
        weight: W, float32, bfloat16 or float16, [N, K]; not cast by autocast.
        bias: [N] in the dtype of x.
        threshold: Finite, at least 0; 0 means that there are no outliers.

    Returns:
        [..., N] in the dtype of x (of autocast, if it is enabled for the device of x).

    Raises:
        TypeError, ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
    """
    check_tensors(x=x, weight=weight)
    check_optional_tensors(bias=bias)
    check_threshold(threshold)
    check_dtype("weight", weight.dtype)
    check_product("x", x, 1, weight.shape)
    rows = x.shape[:-1].numel()
    if weight.requires_grad and rows > MAX_INNER:
        raise ValueError(
            f"x must have at most {MAX_INNER} rows for a weight that learns, got {rows}"
        )
    product: Tensor = _Training.apply(*autocast(x, bias), weight, threshold)  # type: ignore[no-untyped-call]
    return product


class _Training(torch.autograd.Function):
    """The product and its derivatives by x, bias and weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, weight: Tensor, threshold: float
    ) -> Tensor:
        codes, absmax, _ = ops.int8_vectorwise_quant(weight, 0.0)
        kept: tuple[Tensor, ...] = ()
        if ctx.needs_input_grad[2]:
            # Which columns have outliers, and how many, must not be asked of the device here.
            kept = (x,) if threshold > 0 else int8_columnwise_quant(_matrix(x), 0.0)[:2]
        ctx.save_for_backward(codes, absmax, *kept)
        ctx.threshold, ctx.weight_dtype = threshold, weight.dtype
        return int8_linear_inference(x, codes, absmax, bias, threshold)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, absmax, *kept = ctx.saved_tensors
        needs_x, needs_bias, needs_weight, _ = ctx.needs_input_grad
        grad_x = int8_linear_backward(grad, codes, absmax) if needs_x else None
        grad_bias = bias_gradient(grad) if needs_bias else None
        grad_weight = None
        if needs_weight:
            grad_weight = _weight_gradient(_matrix(grad), ctx.threshold, *kept).to(ctx.weight_dtype)
        return grad_x, grad_bias, grad_weight, None


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _weight_gradient(grad: Tensor, threshold: float, *kept: Tensor) -> Tensor:
    """Return gradᵀ x, float32 [N, K], of grad [M, N] and x [..., K] or its quantized columns."""
    if threshold > 0:
        x = _matrix(kept[0])
        codes, absmax, outliers = int8_columnwise_quant(x, threshold)
    else:
        codes, absmax = kept
    grad_codes, grad_absmax, _ = int8_columnwise_quant(grad, 0.0)
    sums = ops.int8_linear_matmul(grad_codes, codes)
    gradient: Tensor = ops.int8_mm_dequant(sums, grad_absmax, absmax, None, torch.float32)
    if threshold > 0:
        gradient += int8_outlier_gradient(grad, x, outliers)
    return gradient
