"""Optimizer steps over lists of tensors, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from .arguments import check_flags, check_integers, check_lists, check_numbers
from .eager import are_plain, is_plain_here
from .eager import optimizer_step as step_unchecked
from .ops import optimizer as ops
from .ops.optimizer_checks import check_options
from .rules import RULES, check_rounding, check_rule

_is_cpu = attrgetter("is_cpu")


def optimizer_step_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    *,
    lr: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    rounding: str = "nearest",
    corrections: Sequence[Tensor] = (),
    seeds: Sequence[int] = (),
    **hyper: float,
) -> None:
    """Step n parameters whose state is quantized to 8 bits in flat blocks of 256.

    A block of state is decoded, updated in float32 and encoded again with a new scale; the
    parameter is updated from the new state before it is encoded, and rounded once.

    Args:
        rule: A rule that has states, by its name in `RULES`.
        params: n parameters, float32, bfloat16 or float16; updated in place.
        grads: n gradients, each with shape, dtype and device of its parameter.
        codes: uint8 tensors of n parameters for each state of the rule: the codes of state 1 of
            all, then of state 2, and so on; updated in place.
        absmax: float32 tensors of ceil(elements / 256) scales, likewise.
        code_maps: A codebook for each state, float32 [256] ascending.
        steps: n step numbers: of the step taken now, from 1.
        lr: Learning rate.
        weight_decay: Factor of the decay.
        decoupled: Decay the parameter (as AdamW) instead of adding the decay to the gradient.
        maximize: Ascend instead of descend.
        grad_scale: What the gradients were multiplied by, and are divided by first.
        rounding: As in `optimizer_step_32bit`.
        corrections: As in `optimizer_step_32bit`.
        seeds: As in `optimizer_step_32bit`.
        **hyper: Exactly the hyperparameters of the rule, `RULES[rule].hyper`.

    Raises:
        TypeError, ValueError: A list, tensor or number does not fit; nothing is changed then.
    """
    check_lists(Tensor, codes=codes, absmax=absmax, code_maps=code_maps)
    numbers = {"lr": lr, "weight_decay": weight_decay, "grad_scale": grad_scale}
    flags = {"decoupled": decoupled, "maximize": maximize}
    per_param = {"corrections": corrections, "seeds": seeds}
    _check(rule, params, grads, steps, numbers, flags, rounding, per_param, hyper)
    states = (codes, absmax, code_maps)
    common = {**numbers, **flags, "rounding": rounding, **per_param}
    _step("optimizer_step_8bit", rule, params, grads, states, steps, common, hyper)


def optimizer_step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    *,
    lr: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    rounding: str = "nearest",
    corrections: Sequence[Tensor] = (),
    seeds: Sequence[int] = (),
    **hyper: float,
) -> None:
    """Step n parameters whose state is float32.

    Args:
        rule: A name in `RULES`.
        params: n parameters, float32, bfloat16 or float16; updated in place, rounded once.
        grads: n gradients, each with shape, dtype and device of its parameter.
        states: float32 tensors of n parameters for each state of the rule: state 1 of all, then
            state 2, and so on; updated in place.
        steps: n step numbers: of the step taken now, from 1.
        lr: Learning rate.
        weight_decay: Factor of the decay.
        decoupled: Decay the parameter (as AdamW) instead of adding the decay to the gradient.
        maximize: Ascend instead of descend.
        grad_scale: What the gradients were multiplied by, and are divided by first.
        rounding: How new parameters are stored: "nearest"; or, for bfloat16 only, "stochastic":
            to one of the two neighbors, at random, so that small steps count on average; or
            "corrected": together with a correction, which makes a master weight of 24 bits.
        corrections: n int8 tensors, each with shape and device of its parameter, updated in place,
            if rounding is "corrected". Zero at the start.
        seeds: n numbers of 64 bits if rounding is "stochastic"; random numbers depend on nothing
            but the seed, the step number and the element.
        **hyper: Exactly the hyperparameters of the rule, `RULES[rule].hyper`.

    Raises:
        TypeError, ValueError: A list, tensor or number does not fit; nothing is changed then.
    """
    check_lists(Tensor, states=states)
    numbers = {"lr": lr, "weight_decay": weight_decay, "grad_scale": grad_scale}
    flags = {"decoupled": decoupled, "maximize": maximize}
    per_param = {"corrections": corrections, "seeds": seeds}
    _check(rule, params, grads, steps, numbers, flags, rounding, per_param, hyper)
    common = {**numbers, **flags, "rounding": rounding, **per_param}
    _step("optimizer_step_32bit", rule, params, grads, (states,), steps, common, hyper)


def _check(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    steps: Sequence[int],
    numbers: Mapping[str, object],
    flags: Mapping[str, object],
    rounding: str,
    per_param: Mapping[str, Sequence[Any]],
    hyper: Mapping[str, float],
) -> None:
    """Check Python types, and that the hyperparameters are those of the rule."""
    check_rule(rule)
    check_rounding(rounding)
    check_lists(Tensor, params=params, grads=grads, corrections=per_param["corrections"])
    check_integers(steps=steps, seeds=per_param["seeds"])
    names = RULES[rule].hyper
    for name in hyper:
        if name not in names:
            raise TypeError(f"rule {rule!r} takes no {name}; its hyperparameters: {names}")
    for name in names:
        if name not in hyper:
            raise TypeError(f"{name} must be given for rule {rule!r}")
    check_numbers(**hyper, **numbers)
    check_flags(**flags)


def _step(
    op: str,
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: tuple[Sequence[Tensor], ...],
    steps: Sequence[int],
    common: dict[str, Any],
    hyper: Mapping[str, float],
) -> None:
    """Call an op; in plain eager mode, what the dispatcher, slow with lists, would call."""
    ordered = [float(hyper[name]) for name in RULES[rule].hyper]
    operands = (*states, steps)
    plain = _is_plain(params, grads, *states, common["corrections"])
    if plain:
        check_options(RULES[rule], {**common, "hyper": ordered})
        if step_unchecked(op, rule, params, grads, operands, common, ordered):
            return
    call = (_KERNELS if plain else _OPS)[op]
    call(rule, params, grads, *operands, **common, hyper=ordered)


def _is_plain(params: Sequence[Tensor], *others: Sequence[Tensor]) -> bool:
    """Return whether the dispatcher would just call the kernel."""
    return (
        not torch.is_grad_enabled()
        and is_plain_here()
        and all(map(_is_cpu, params))
        and all(map(are_plain, (params, *others)))
    )


_OPS: dict[str, Callable[..., None]] = {
    "optimizer_step_8bit": ops.optimizer_step_8bit,
    "optimizer_step_32bit": ops.optimizer_step_32bit,
}
_KERNELS: dict[str, Callable[..., None]] = {
    "optimizer_step_8bit": ops.step_8bit,
    "optimizer_step_32bit": ops.step_32bit,
}
