"""Ops kq::linear_4bit and kq::linear_4bit_backward, with autograd for x and bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import eager
from ..backends.base import Scales
from ..products import multiply
from ..selection import Query, check_query, choose
from .checks import check_bias, check_product, dense_weight, matrix, row_matrix
from .four_bit import dequantize_into
from .library import register


def _check_product(name: str, x: Tensor, weight_dim: int, packed: Tensor, shape: Any) -> None:
    check_product(name, x, weight_dim, shape)
    if packed.device != x.device:
        raise ValueError(f"packed must be on {x.device} like {name}, got {packed.device}")


def _as_rows(shape: Sequence[int], blocksize: int, layout: str) -> str:
    """Return "row", the layout that backends multiply, if it has the same blocks as `layout`."""
    return "row" if layout == "flat" and shape[1] % blocksize == 0 else layout


def _query(op: str, x: Tensor, quant_type: str, blocksize: int) -> Query:
    return Query(op, x.device.type, x.dtype, quant_type, blocksize)


def _linear(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    backend = choose(_query("linear_4bit", x, quant_type, blocksize))
    _check_product("x", x, 1, packed, shape)
    n, k = shape
    check_bias(bias, x.dtype, n, x.device)
    layout = _as_rows(shape, blocksize, layout)
    scales = Scales(absmax, *nested)
    out = x.new_empty((*x.shape[:-1], n))
    m = math.prod(x.shape[:-1])
    if layout == "flat":
        weight = x.new_empty((n, k))
        dequantize_into(packed, scales, shape, blocksize, quant_type, layout, weight)
        multiply(row_matrix(x, m, k), weight.t(), bias, matrix(out, m, n))
        return out
    packed, scales, _ = dense_weight(packed, scales, shape, blocksize, layout)
    backend.linear_4bit(
        row_matrix(x, m, k),
        packed,
        scales,
        None if bias is None else bias.contiguous(),
        matrix(out, m, n),
        quant_type=quant_type,
        blocksize=blocksize,
    )
    return out


def _linear_fake(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    check_query(_query("linear_4bit", x, quant_type, blocksize))
    _check_product("x", x, 1, packed, shape)
    check_bias(bias, x.dtype, shape[0], x.device)
    dense_weight(packed, Scales(absmax, *nested), shape, blocksize, layout)
    return x.new_empty((*x.shape[:-1], shape[0]))


def _backward(
    grad: Tensor,
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    backend = choose(_query("linear_4bit_backward", grad, quant_type, blocksize))
    _check_product("grad", grad, 0, packed, shape)
    n, k = shape
    layout = _as_rows(shape, blocksize, layout)
    scales = Scales(absmax, *nested)
    out = grad.new_empty((*grad.shape[:-1], k))
    m = math.prod(grad.shape[:-1])
    if layout == "flat":
        weight = grad.new_empty((n, k))
        dequantize_into(packed, scales, shape, blocksize, quant_type, layout, weight)
        multiply(row_matrix(grad, m, n), weight, None, matrix(out, m, k))
        return out
    packed, scales, _ = dense_weight(packed, scales, shape, blocksize, layout)
    backend.linear_4bit_backward(
        row_matrix(grad, m, n),
        packed,
        scales,
        matrix(out, m, k),
        quant_type=quant_type,
        blocksize=blocksize,
    )
    return out


def _backward_fake(
    grad: Tensor,
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    check_query(_query("linear_4bit_backward", grad, quant_type, blocksize))
    _check_product("grad", grad, 0, packed, shape)
    dense_weight(packed, Scales(absmax, *nested), shape, blocksize, layout)
    return grad.new_empty((*grad.shape[:-1], shape[1]))


_WEIGHT = (
    "SymInt[] shape, int blocksize, str quant_type, str layout, "
    "Tensor? nested_absmax=None, Tensor? nested_code=None, Tensor? offset=None"
)

linear_4bit = register(
    f"linear_4bit(Tensor x, Tensor packed, Tensor absmax, Tensor? bias, {_WEIGHT}) -> Tensor",
    _linear,
    _linear_fake,
)
# Autograd in Python costs as much as the rest of a call, also when nothing asks for a gradient.
linear_4bit_inference = register(
    "linear_4bit.inference(Tensor x, Tensor packed, Tensor absmax, Tensor? bias, "
    f"{_WEIGHT}) -> Tensor",
    _linear,
    _linear_fake,
)
linear_4bit_backward = register(
    f"linear_4bit_backward(Tensor grad, Tensor packed, Tensor absmax, {_WEIGHT}) -> Tensor",
    _backward,
    _backward_fake,
)


def save(
    ctx: Any, weight_format: Sequence[Any], packed: Tensor, absmax: Tensor, *nested: Tensor | None
) -> None:
    """Keep what the derivatives of both ops need."""
    ctx.save_for_backward(packed, absmax, *nested)
    ctx.weight_format = weight_format


def gradients(
    ctx: Any, grad: Tensor, needs_x: bool, needs_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients with respect to x and bias that are needed."""
    grad_x = grad_bias = None
    if needs_x:
        grad_x = _gradient_of_input(grad, ctx.weight_format, *ctx.saved_tensors)
    if needs_bias:
        grad_bias = bias_gradient(grad)
    return grad_x, grad_bias


def bias_gradient(grad: Tensor) -> Tensor:
    """Return the gradient of a bias [N] that was added to every row of [..., N]."""
    return grad.flatten(0, -2).sum(0) if grad.ndim > 1 else grad


def _gradient_of_input(
    grad: Tensor,
    weight_format: Sequence[Any],
    packed: Tensor,
    absmax: Tensor,
    *nested: Tensor | None,
) -> Tensor:
    # With grad mode on, this product is itself to be differentiated.
    if not torch.is_grad_enabled() and eager.is_plain(grad, packed, absmax, *nested):
        scales = Scales(absmax, *nested)
        product = eager.linear_4bit_backward(grad, packed, scales, *weight_format)
        if product is not None:
            return product
    shape, *rest = weight_format
    grad_x: Tensor = linear_4bit_backward(grad, packed, absmax, tuple(shape), *rest, *nested)
    return grad_x


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, packed, absmax, _, *rest = inputs
    save(ctx, rest[:4], packed, absmax, *rest[4:])


def _linear_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    grad_x, grad_bias = gradients(ctx, grad, needs[0], needs[3])
    return (grad_x, None, None, grad_bias) + (None,) * 7


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, packed, absmax, *rest = inputs
    save(ctx, rest[:4], packed, absmax, *rest[4:])


def _backward_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, absmax, *nested = ctx.saved_tensors
    # grad W is linear in grad, and its transpose is the forward product.
    grad_grad = linear_4bit(grad, packed, absmax, None, *ctx.weight_format, *nested)
    return (grad_grad,) + (None,) * 9


torch.library.register_autograd("kq::linear_4bit", _linear_gradients, setup_context=_linear_setup)
torch.library.register_autograd(
    "kq::linear_4bit_backward", _backward_gradients, setup_context=_backward_setup
)
