"""Ops kq::linear_4bit_grouped, its backward and kq::grouped_sum, the gradient of its bias.

The row counts are a tensor, so that a traced graph holds for any distribution of the rows; real
kernels read them on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.base import Scales
from ..formats import check_dtype, dtype_name
from ..products import multiply, segments
from ..selection import Query, check_query, choose
from .checks import check_tensor, dense_weight, row_matrix
from .four_bit import dequantize_into
from .library import register

_COUNTS_DTYPES = (torch.int64, torch.int32)


def _check_counts(counts: Tensor, experts: int, device: torch.device) -> None:
    if counts.dtype not in _COUNTS_DTYPES:
        accepted = ", ".join(map(dtype_name, _COUNTS_DTYPES))
        raise TypeError(f"counts must be one of {accepted}, got {dtype_name(counts.dtype)}")
    if counts.ndim != 1 or counts.shape[0] != experts:
        raise ValueError(f"counts must have shape ({experts},), got {tuple(counts.shape)}")
    if counts.is_meta and device.type != "meta":
        raise ValueError(f"counts must hold numbers to be read, got a tensor on {counts.device}")


def _read_counts(counts: Tensor, rows: int, of: str) -> list[int]:
    """Return the counts, which add up to the rows of the tensor `of`."""
    numbers: list[int] = counts.tolist()
    if any(number < 0 for number in numbers):
        raise ValueError(f"counts must be numbers of rows >= 0, got {numbers}")
    if sum(numbers) != rows:
        raise ValueError(f"counts must add up to the {rows} rows of {of}, got {numbers}")
    return numbers


def _check_product(
    name: str, x: Tensor, weight_dim: int, packed: Tensor, counts: Tensor, shape: Sequence[int]
) -> None:
    """Raise unless `x` has rows of the length that a dimension of the weights asks for."""
    if len(shape) != 3:
        raise ValueError(f"the weight must have three dimensions, got shape {tuple(shape)}")
    if x.ndim != 2 or x.shape[1] != shape[weight_dim]:
        raise ValueError(
            f"{name} must have two dimensions, the last of {shape[weight_dim]}, for weights of "
            f"shape {tuple(shape)}, got shape {tuple(x.shape)}"
        )
    if packed.device != x.device:
        raise ValueError(f"packed must be on {x.device} like {name}, got {packed.device}")
    _check_counts(counts, shape[0], x.device)


def _check_bias(bias: Tensor | None, x: Tensor, shape: Sequence[int]) -> None:
    if bias is not None:
        experts, features, _ = shape
        check_tensor("bias", bias, x.dtype, experts * features, x.device)
        if bias.ndim != 2 or bias.shape[0] != experts:
            raise ValueError(f"bias must have shape {(experts, features)}, got {tuple(bias.shape)}")


def _is_row(shape: Sequence[int], blocksize: int, layout: str) -> bool:
    """Whether the blocks are those of the row layout, the one that backends multiply."""
    return layout == "row" or (layout == "flat" and shape[2] % blocksize == 0)


def _weights(
    packed: Tensor, scales: Scales, shape: Sequence[int], blocksize: int, layout: str
) -> tuple[Tensor, Scales]:
    """Check all experts' codes and scales; return them as backends take them."""
    layout = "row" if _is_row(shape, blocksize, layout) else layout
    codes, dense, _ = dense_weight(packed, scales, shape, blocksize, layout)
    return codes, dense


def _query(op: str, x: Tensor, quant_type: str, blocksize: int) -> Query:
    return Query(op, x.device.type, x.dtype, quant_type, blocksize)


def _linear(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    bias: Tensor | None,
    counts: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    backend = choose(_query("linear_4bit_grouped", x, quant_type, blocksize))
    _check_product("x", x, 2, packed, counts, shape)
    _check_bias(bias, x, shape)
    numbers = _read_counts(counts, x.shape[0], "x")
    scales = Scales(absmax, *nested)
    rows = row_matrix(x, *x.shape)
    bias = None if bias is None else bias.contiguous()
    out = x.new_empty((x.shape[0], shape[1]))
    if _is_row(shape, blocksize, layout):
        codes, dense = _weights(packed, scales, shape, blocksize, layout)
        backend.linear_4bit_grouped(
            rows, codes, dense, bias, numbers, out, quant_type=quant_type, blocksize=blocksize
        )
        return out
    weight = x.new_empty(shape)
    dequantize_into(packed, scales, shape, blocksize, quant_type, layout, weight)
    for expert, own in segments(numbers):
        added = None if bias is None else bias[expert]
        multiply(rows[own], weight[expert].t(), added, out[own])
    return out


def _linear_fake(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    bias: Tensor | None,
    counts: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    check_query(_query("linear_4bit_grouped", x, quant_type, blocksize))
    _check_product("x", x, 2, packed, counts, shape)
    _check_bias(bias, x, shape)
    _weights(packed, Scales(absmax, *nested), shape, blocksize, layout)
    return x.new_empty((x.shape[0], shape[1]))


def _backward(
    grad: Tensor,
    packed: Tensor,
    absmax: Tensor,
    counts: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    backend = choose(_query("linear_4bit_grouped_backward", grad, quant_type, blocksize))
    _check_product("grad", grad, 1, packed, counts, shape)
    numbers = _read_counts(counts, grad.shape[0], "grad")
    scales = Scales(absmax, *nested)
    rows = row_matrix(grad, *grad.shape)
    out = grad.new_empty((grad.shape[0], shape[2]))
    if _is_row(shape, blocksize, layout):
        codes, dense = _weights(packed, scales, shape, blocksize, layout)
        backend.linear_4bit_grouped_backward(
            rows, codes, dense, numbers, out, quant_type=quant_type, blocksize=blocksize
        )
        return out
    weight = grad.new_empty(shape)
    dequantize_into(packed, scales, shape, blocksize, quant_type, layout, weight)
    for expert, own in segments(numbers):
        multiply(rows[own], weight[expert], None, out[own])
    return out


def _backward_fake(
    grad: Tensor,
    packed: Tensor,
    absmax: Tensor,
    counts: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
) -> Tensor:
    check_query(_query("linear_4bit_grouped_backward", grad, quant_type, blocksize))
    _check_product("grad", grad, 1, packed, counts, shape)
    _weights(packed, Scales(absmax, *nested), shape, blocksize, layout)
    return grad.new_empty((grad.shape[0], shape[2]))


def _check_sum(x: Tensor, counts: Tensor) -> None:
    check_dtype("x", x.dtype)
    if x.ndim != 2:
        raise ValueError(f"x must have two dimensions, got shape {tuple(x.shape)}")
    _check_counts(counts, counts.numel(), x.device)


def _sum(x: Tensor, counts: Tensor) -> Tensor:
    _check_sum(x, counts)
    sums = x.new_zeros((counts.shape[0], x.shape[1]))
    # Each group as linear_4bit adds up the gradient of a bias, so that the bits are the same.
    for group, rows in segments(_read_counts(counts, x.shape[0], "x")):
        torch.sum(x[rows], 0, out=sums[group])
    return sums


def _sum_fake(x: Tensor, counts: Tensor) -> Tensor:
    _check_sum(x, counts)
    return x.new_empty((counts.shape[0], x.shape[1]))


_WEIGHT = (
    "SymInt[] shape, int blocksize, str quant_type, str layout, "
    "Tensor? nested_absmax=None, Tensor? nested_code=None, Tensor? offset=None"
)
_ARGUMENTS = f"(Tensor x, Tensor packed, Tensor absmax, Tensor? bias, Tensor counts, {_WEIGHT})"

linear_4bit_grouped = register(f"linear_4bit_grouped{_ARGUMENTS} -> Tensor", _linear, _linear_fake)
# As for linear_4bit: autograd in Python is not free, also when nothing asks for a gradient.
linear_4bit_grouped_inference = register(
    f"linear_4bit_grouped.inference{_ARGUMENTS} -> Tensor", _linear, _linear_fake
)
linear_4bit_grouped_backward = register(
    "linear_4bit_grouped_backward(Tensor grad, Tensor packed, Tensor absmax, Tensor counts, "
    f"{_WEIGHT}) -> Tensor",
    _backward,
    _backward_fake,
)
grouped_sum = register("grouped_sum(Tensor x, Tensor counts) -> Tensor", _sum, _sum_fake)


def _save(ctx: Any, *tensors: Tensor | None, weight_format: Sequence[Any]) -> None:
    ctx.save_for_backward(*tensors)
    ctx.weight_format = weight_format


def _linear_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, packed, absmax, _, counts, *rest = inputs
    _save(ctx, packed, absmax, counts, *rest[4:], weight_format=rest[:4])


def _linear_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, absmax, counts, *nested = ctx.saved_tensors
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = linear_4bit_grouped_backward(
            grad, packed, absmax, counts, *ctx.weight_format, *nested
        )
    if ctx.needs_input_grad[3]:
        grad_bias = grouped_sum(grad, counts)
    return (grad_x, None, None, grad_bias) + (None,) * 8


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    _, packed, absmax, counts, *rest = inputs
    _save(ctx, packed, absmax, counts, *rest[4:], weight_format=rest[:4])


def _backward_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, absmax, counts, *nested = ctx.saved_tensors
    # As for linear_4bit: the gradient is linear, and its transpose is the forward product.
    grad_grad = linear_4bit_grouped(grad, packed, absmax, None, counts, *ctx.weight_format, *nested)
    return (grad_grad,) + (None,) * 10


def _sum_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, counts = inputs
    ctx.save_for_backward(counts)
    ctx.rows = x.shape[0]


def _sum_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (counts,) = ctx.saved_tensors
    return grad.repeat_interleave(counts.to(grad.device), 0, output_size=ctx.rows), None


torch.library.register_autograd(
    "kq::linear_4bit_grouped", _linear_gradients, setup_context=_linear_setup
)
torch.library.register_autograd(
    "kq::linear_4bit_grouped_backward", _backward_gradients, setup_context=_backward_setup
)
torch.library.register_autograd("kq::grouped_sum", _sum_gradients, setup_context=_sum_setup)
