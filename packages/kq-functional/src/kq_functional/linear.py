"""The linear layer on 4-bit weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import eager
from .arguments import check_optional_tensors, check_state, check_tensors
from .backends.base import Scales
from .operands import autocast, is_differentiable, needs_grad
from .ops import linear as ops
from .state import QuantState


def linear_4bit(
    x: Tensor, packed: Tensor, quant_state: QuantState, bias: Tensor | None = None
) -> Tensor:
    """Compute x @ W.T + bias with a 4-bit weight W, without storing W in full where possible.

    Differentiable in x and bias; W is frozen. Under autocast x and bias are cast as
    torch.nn.functional.linear casts them.

    Args:
        x: float32, bfloat16 or float16, [..., K]; any leading dimensions, also empty ones.
        packed: Packed codes of W, uint8.
        quant_state: How they decode; its shape is [N, K].
        bias: [N] in the dtype of x.

    Returns:
        [..., N] in the dtype of x (of autocast, if it is enabled for the device of x).

    Raises:
        TypeError, ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
    """
    check_state(quant_state)
    if quant_state.quant_type is None:
        raise ValueError("quant_state must be of 4-bit codes, got one of 8-bit codes")
    weight = (
        packed,
        quant_state.scales,
        quant_state.shape,
        quant_state.blocksize,
        quant_state.quant_type,
        quant_state.layout,
    )
    if any(tensor is not None and tensor.dtype == torch.int32 for tensor in quant_state.scales):
        return _dispatched(x, bias, *weight)  # which refuses them
    return linear_4bit_parts(x, packed, weight[1], bias, *weight[2:])


def linear_4bit_parts(
    x: Tensor,
    packed: Tensor,
    scales: Scales,
    bias: Tensor | None,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str = "row",
) -> Tensor:
    """Compute `linear_4bit` from the parts of a `QuantState`, to spare its making in every call.

    Args:
        x: As for `linear_4bit`.
        packed: As for `linear_4bit`.
        scales: Of the weight. Those that are float32 may be given as int32 with the same bits,
            as modules store them.
        bias: As for `linear_4bit`.
        shape: [N, K], that of the weight.
        blocksize: Elements in a block.
        quant_type: "nf4" or "fp4".
        layout: "row" or "flat".

    Returns:
        As `linear_4bit`.

    Raises:
        TypeError, ValueError: As for `linear_4bit`.
    """
    weight = (packed, scales, shape, blocksize, quant_type, layout)
    if eager.is_plain(x, packed, bias, *scales):
        product = _plain(x, bias, weight)
        if product is not None:
            return product
    return _dispatched(x, bias, packed, scales.with_floats(), *weight[2:])


_Weight = tuple[Tensor, Scales, Sequence[int], int, str, str]


def _plain(x: Tensor, bias: Tensor | None, weight: _Weight) -> Tensor | None:
    """Compute past the dispatcher, or return None to have it called."""
    if torch.is_grad_enabled():
        if needs_grad(x, bias):
            if not x.is_cpu or eager.is_wrapped(x) or eager.is_wrapped(bias):
                return None
            return _apply(x, bias, (weight[0], weight[1].with_floats(), *weight[2:]))
        if any(tensor is not None and tensor.requires_grad for tensor in weight[1]):
            return None  # the dispatcher has a warning for this
    return eager.linear_4bit(x, bias, *weight)


class _Linear4bit(torch.autograd.Function):
    """Op kq::linear_4bit with its derivatives, but without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, weight: _Weight) -> Tensor:
        ops.save(ctx, weight[2:], weight[0], *weight[1])
        product = eager.linear_4bit(x, bias, *weight)
        return _call(ops.linear_4bit_inference, x, bias, *weight) if product is None else product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_x, needs_bias, _ = ctx.needs_input_grad
        return (*ops.gradients(ctx, grad, needs_x, needs_bias), None)


# What Function.apply does besides is for transforms, and `is_plain` knows that there is none.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Linear4bit).apply


def _dispatched(x: Tensor, bias: Tensor | None, *weight: Any) -> Tensor:
    """Call the registered op."""
    check_tensors(x=x, packed=weight[0])
    check_optional_tensors(bias=bias)
    x, bias = autocast(x, bias)
    op = ops.linear_4bit if is_differentiable(x, bias) else ops.linear_4bit_inference
    return _call(op, x, bias, *weight)


def _call(
    op: Any,
    x: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    scales: Scales,
    shape: Sequence[int],
    *options: Any,
) -> Tensor:
    absmax, *nested = scales
    # A torch.Size takes the dispatcher longer to read than a tuple.
    product: Tensor = op(x, packed, absmax, bias, tuple(shape), *options, *nested)
    return product
