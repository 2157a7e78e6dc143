"""Calls in plain eager mode: straight to the backend, past a dispatcher with nothing to do.

For a small layer the dispatcher and the checks of the ops take far longer than the product, and
for hundreds of small parameters longer than their step. They are left out where nobody can tell:
`is_plain` says so of a call, and the backend itself looks at what it is given
(`Backend.linear_4bit_unchecked`, `Backend.int8_linear_unchecked`, `Backend.checks_steps`). Nothing
is kept from one call to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from .backends.base import Scales
from .formats import OPTIMIZER_BLOCKSIZE
from .rules import RULES
from .selection import choose_known

try:
    from torch._C import (
        _get_tracing_state,
        _len_torch_dispatch_stack,
        _len_torch_function_stack,
    )
    from torch._C._autograd import _profiler_enabled
    from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
except ImportError:  # private names: a torch without them gets every call through its dispatcher
    AVAILABLE = False
else:
    AVAILABLE = True

_PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter})


_is_negated = Tensor.is_neg
_shape = attrgetter("shape")
# RuntimeError: what is no plain tensor after all has no memory that a backend could ask for.
_REFUSALS = (RuntimeError, TypeError, ValueError)


def is_plain(x: Tensor, packed: Tensor, *others: Tensor | None) -> bool:
    """Return whether the dispatcher would do no more for these tensors than call the kernel.

    It does more for tensor subclasses and lazily negated tensors, under modes, transforms,
    tracing, autocast and forward-mode differentiation; and a profiler wants to see the op.
    """
    given = [x, packed, *[tensor for tensor in others if tensor is not None]]
    return is_plain_here() and are_plain(given)


def is_plain_here() -> bool:
    """Return whether it would do no more, as far as that does not depend on the tensors."""
    return (
        AVAILABLE
        and not is_compiling()
        and not _len_torch_dispatch_stack()
        and not _len_torch_function_stack()
        and peek_interpreter_stack() is None
        and _get_tracing_state() is None
        and not _profiler_enabled()
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
    )


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Return whether it would do no more, as far as that depends on the tensors."""
    return _PLAIN_TYPES.issuperset(map(type, tensors)) and not any(map(_is_negated, tensors))


def is_wrapped(tensor: Tensor | None) -> bool:
    """Return whether a transform wrapped a plain tensor, which may have outlived the transform."""
    return tensor is not None and is_functorch_wrapped_tensor(tensor)


def linear_4bit(
    x: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    scales: Scales,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
) -> Tensor | None:
    """Return what op kq::linear_4bit does, or None to have it called; all must be plain."""
    if not (_fits(x, shape, 1) and (layout == "row" or _is_row_too(shape, blocksize, layout))):
        return None
    if bias is not None and bias.ndim != 1:
        return None
    backend = choose_known("linear_4bit", "cpu", x.dtype, quant_type, blocksize, "", "")
    compute = getattr(backend, "linear_4bit_unchecked", None)
    options = {"shape": shape, "quant_type": quant_type, "blocksize": blocksize}
    return _product(compute, x, shape[0], (packed, scales, bias), options)


def linear_4bit_backward(
    grad: Tensor,
    packed: Tensor,
    scales: Scales,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
) -> Tensor | None:
    """Return what op kq::linear_4bit_backward does, or None to have it called."""
    if not (_fits(grad, shape, 0) and (layout == "row" or _is_row_too(shape, blocksize, layout))):
        return None
    backend = choose_known("linear_4bit_backward", "cpu", grad.dtype, quant_type, blocksize, "", "")
    compute = getattr(backend, "linear_4bit_backward_unchecked", None)
    options = {"shape": shape, "quant_type": quant_type, "blocksize": blocksize}
    return _product(compute, grad, shape[1], (packed, scales), options)


def int8_linear(
    x: Tensor, bias: Tensor | None, weight: Tensor, absmax: Tensor, threshold: float
) -> Tensor | None:
    """Return what op kq::int8_linear does, or None to have it called."""
    if not _fits(x, weight.shape, 1) or absmax.ndim != 1:
        return None
    if bias is not None and bias.ndim != 1:
        return None
    backend = choose_known("int8_linear", "cpu", x.dtype, "", 0, "", "")
    compute = getattr(backend, "int8_linear_unchecked", None)
    options = {"threshold": threshold}
    return _product(compute, x, weight.shape[0], (weight, absmax, bias), options)


def optimizer_step(
    op: str,
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    others: tuple[Sequence[Any], ...],
    options: dict[str, Any],
    hyper: Sequence[float],
) -> bool:
    """Do what an op of the optimizer does, or return False to have it called.

    Args:
        op: Its name.
        rule: As the op takes it.
        params: Likewise, on the CPU and plain.
        grads: Likewise.
        others: Its arguments between grads and the keyword arguments.
        options: Its keyword arguments, but for hyper.
        hyper: As it takes them.
    """
    dtypes = {param.dtype for param in params}
    if len(dtypes) != 1 or not all(map(Tensor.numel, params)):
        return False
    if list(map(_shape, params)) != list(map(_shape, grads)):
        return False
    blocksize = OPTIMIZER_BLOCKSIZE if op == "optimizer_step_8bit" else 0
    kind = (op, "cpu", dtypes.pop(), "", blocksize, rule, options["rounding"])
    named = dict(zip(RULES[rule].hyper, hyper, strict=True))
    try:
        backend = choose_known(*kind)
        if not getattr(backend, "checks_steps", False):
            return False
        getattr(backend, op)(rule, params, grads, *others, **options, **named)
    except _REFUSALS:
        return False
    increment_version(params)
    return True


def _fits(x: Tensor, shape: Sequence[int], dim: int) -> bool:
    """Return whether dense rows on the CPU meet a dimension of a weight."""
    return (
        len(shape) == 2
        and x.is_cpu
        and x.ndim > 0
        and x.shape[-1] == shape[dim]
        and x.numel() > 0
        and x.is_contiguous()
    )


def _is_row_too(shape: Sequence[int], blocksize: int, layout: str) -> bool:
    """Return whether the blocks of another layout are those of the row layout."""
    return layout == "flat" and shape[1] % blocksize == 0


def _product(
    compute: Callable[..., None] | None,
    x: Tensor,
    features: int,
    operands: tuple[Any, ...],
    options: dict[str, Any],
) -> Tensor | None:
    """Return the product that a backend computes, or None if it cannot or refuses."""
    if compute is None:
        return None
    out = x.new_empty((*x.shape[:-1], features))
    try:
        compute(x, *operands, out, **options)
    except _REFUSALS:
        return None
    return out
