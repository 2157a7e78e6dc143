"""The linear layer on int8 weights: LLM.int8()."""

from __future__ import annotations

import torch
from torch import Tensor

from . import eager
from .arguments import check_optional_tensors, check_tensors
from .int8_format import check_threshold
from .int8_kept import KeptColumns, add_kept, check_kept
from .operands import autocast, is_differentiable, needs_grad
from .ops import int8_linear as ops


def int8_linear(
    x: Tensor,
    weight: Tensor,
    absmax: Tensor,
    bias: Tensor | None = None,
    threshold: float = 0.0,
    kept: KeptColumns | None = None,
) -> Tensor:
    """Compute x @ W.T + bias with an int8 weight W, x quantized row by row (LLM.int8()).

    x is quantized as by `int8_vectorwise_quant`; the product of codes is exact. With a threshold
    above 0, the columns of x that hold an outlier in any row of the call are multiplied
    unquantized with those of the decoded W (Dettmers et al., arXiv 2208.07339). All is summed and
    scaled in float32 and rounded once.

    With kept columns, W is in these what it was before it was rounded: what x has there is
    multiplied, unquantized, with what rounding took, and added to the rounded result, in every
    call. Where outliers are large it is this error of W that remains of them.

    Differentiable in x, as if it were not quantized (straight through), and in bias; W is frozen.
    Under autocast x and bias are cast as torch.nn.functional.linear casts them.

    Args:
        x: float32, bfloat16 or float16, [..., K]; any leading dimensions, also empty ones; K is at
            most 2^17.
        weight: Codes of W, int8 [N, K], from `int8_vectorwise_quant` without a threshold.
        absmax: Its scales, float32 [N], or int32 with the same bits, as modules store them.
        bias: [N] in the dtype of x.
        threshold: Finite, at least 0; 0 means that there are no outliers.
        kept: What rounding took from some columns of W, from `int8_kept_columns`.

    Returns:
        [..., N] in the dtype of x (of autocast, if it is enabled for the device of x).

    Raises:
        TypeError, ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
    """
    check_tensors(x=x, weight=weight, absmax=absmax)
    check_optional_tensors(bias=bias)
    check_threshold(threshold)
    if kept is None:
        return _product(x, weight, absmax, bias, threshold)
    check_kept(kept, x, weight)
    return add_kept(_product(x, weight, absmax, bias, threshold), x, kept)


def _product(
    x: Tensor, weight: Tensor, absmax: Tensor, bias: Tensor | None, threshold: float
) -> Tensor:
    if eager.is_plain(x, weight, absmax, bias) and not _is_recorded(x, absmax, bias):
        plain = eager.int8_linear(x, bias, weight, absmax, threshold)
        if plain is not None:
            return plain
    if absmax.dtype == torch.int32:
        absmax = absmax.view(torch.float32)
    x, bias = autocast(x, bias)
    op = ops.int8_linear if is_differentiable(x, bias) else ops.int8_linear_inference
    product: Tensor = op(x, weight, absmax, bias, threshold)
    return product


def _is_recorded(x: Tensor, absmax: Tensor, bias: Tensor | None) -> bool:
    """Whether autograd has to see the call: to record it, or to warn about scales that learn."""
    return torch.is_grad_enabled() and (needs_grad(x, bias) or absmax.requires_grad)
