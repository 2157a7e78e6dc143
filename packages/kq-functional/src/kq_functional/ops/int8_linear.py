"""Ops kq::int8_linear and kq::int8_linear_backward, with autograd for x and bias."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..int8_format import LARGEST_CODE, check_inner, check_int8, check_threshold
from ..selection import Query, check_query, choose
from .checks import check_bias, check_product, matrix, row_matrix
from .int8 import check_scales
from .library import register
from .linear import bias_gradient


def _check_weight(name: str, x: Tensor, weight_dim: int, weight: Tensor, absmax: Tensor) -> None:
    """Raise unless codes and scales are those of a weight, and `x` fits a dimension of it."""
    check_int8("weight", weight.dtype)
    check_product(name, x, weight_dim, weight.shape)
    if weight.device != x.device:
        raise ValueError(f"weight must be on {x.device} like {name}, got {weight.device}")
    check_scales("absmax", absmax, weight.shape[:1], x.device)


def _check_linear(
    x: Tensor, weight: Tensor, absmax: Tensor, bias: Tensor | None, threshold: float
) -> Query:
    query = Query("int8_linear", x.device.type, x.dtype)
    check_query(query)
    check_threshold(threshold)
    _check_weight("x", x, 1, weight, absmax)
    check_inner(weight.shape[1])
    check_bias(bias, x.dtype, weight.shape[0], x.device)
    return query


def _linear(
    x: Tensor, weight: Tensor, absmax: Tensor, bias: Tensor | None, threshold: float
) -> Tensor:
    backend = choose(_check_linear(x, weight, absmax, bias, threshold))
    n, k = weight.shape
    m = math.prod(x.shape[:-1])
    out = x.new_empty((*x.shape[:-1], n))
    backend.int8_linear(
        row_matrix(x, m, k),
        matrix(weight, n, k),
        absmax.contiguous(),
        None if bias is None else bias.contiguous(),
        out.view(m, n),
        threshold=threshold,
    )
    return out


def _linear_fake(
    x: Tensor, weight: Tensor, absmax: Tensor, bias: Tensor | None, threshold: float
) -> Tensor:
    _check_linear(x, weight, absmax, bias, threshold)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _check_backward(grad: Tensor, weight: Tensor, absmax: Tensor) -> Query:
    query = Query("int8_linear_backward", grad.device.type, grad.dtype)
    check_query(query)
    _check_weight("grad", grad, 0, weight, absmax)
    return query


def _backward(grad: Tensor, weight: Tensor, absmax: Tensor) -> Tensor:
    backend = choose(_check_backward(grad, weight, absmax))
    n, k = weight.shape
    m = math.prod(grad.shape[:-1])
    out = grad.new_empty((*grad.shape[:-1], k))
    backend.int8_linear_backward(
        row_matrix(grad, m, n), matrix(weight, n, k), absmax.contiguous(), out.view(m, k)
    )
    return out


def _backward_fake(grad: Tensor, weight: Tensor, absmax: Tensor) -> Tensor:
    _check_backward(grad, weight, absmax)
    return grad.new_empty((*grad.shape[:-1], weight.shape[1]))


_LINEAR = "(Tensor x, Tensor weight, Tensor absmax, Tensor? bias, float threshold) -> Tensor"

int8_linear = register(f"int8_linear{_LINEAR}", _linear, _linear_fake)
# Autograd in Python costs as much as the rest of a call, also when nothing asks for a gradient.
int8_linear_inference = register(f"int8_linear.inference{_LINEAR}", _linear, _linear_fake)
int8_linear_backward = register(
    "int8_linear_backward(Tensor grad, Tensor weight, Tensor absmax) -> Tensor",
    _backward,
    _backward_fake,
)


def _save(ctx: Any, weight: Tensor, absmax: Tensor) -> None:
    """Keep what the derivatives of both ops need; x is not among it."""
    ctx.save_for_backward(weight, absmax)


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _save(ctx, inputs[1], inputs[2])


def _linear_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = int8_linear_backward(grad, *ctx.saved_tensors)
    if ctx.needs_input_grad[3]:
        grad_bias = bias_gradient(grad)
    return grad_x, None, None, grad_bias, None


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _save(ctx, inputs[1], inputs[2])


def _backward_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weight, absmax = ctx.saved_tensors
    # grad W is linear in grad; its transpose is a product with the codes the other way round,
    # scaled afterwards, so that W is decoded in tiles here as well.
    codes = weight.t().contiguous()
    unscaled = absmax.new_full(codes.shape[:1], LARGEST_CODE)
    product = int8_linear_backward(grad.float(), codes, unscaled)
    return (product / LARGEST_CODE * absmax).to(grad.dtype), None, None


torch.library.register_autograd("kq::int8_linear", _linear_gradients, setup_context=_linear_setup)
torch.library.register_autograd(
    "kq::int8_linear_backward", _backward_gradients, setup_context=_backward_setup
)
