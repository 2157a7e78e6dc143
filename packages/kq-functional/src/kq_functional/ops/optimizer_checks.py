"""Checks of the optimizer steps, shared by real and fake kernels.

A list of tensors is looked at as a whole first, which takes a few calls instead of a few for each
tensor; only a list that is wrong is gone through to name what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ..formats import OPTIMIZER_BLOCKSIZE, check_dtype
from ..rules import RULES, Rule, check_rounding, check_rule
from .checks import check_code, check_out

_dtype, _device, _shape, _layout = map(attrgetter, ("dtype", "device", "shape", "layout"))


def check_call(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    steps: Sequence[int],
    options: Mapping[str, Any],
) -> None:
    """Raise unless all but the states fits."""
    check_rule(rule)
    check_options(RULES[rule], options)
    for name, items in (("grads", grads), ("steps", steps)):
        if len(items) != len(params):
            raise ValueError(
                f"{name} must have one entry for each of the {len(params)} params, got {len(items)}"
            )
    if any(list(map(of, grads)) != list(map(of, params)) for of in (_shape, _dtype, _device)):
        _refuse_grads(params, grads)
    for name, items in (("params", params), ("grads", grads)):
        for i, layout in enumerate(map(_layout, items)):
            if layout != torch.strided:
                raise ValueError(f"{name}[{i}] must be dense (torch.strided), got {layout}")
    if min(steps, default=1) < 1:
        i = next(i for i, step in enumerate(steps) if step < 1)
        raise ValueError(f"steps[{i}] must be at least 1, got {steps[i]}")
    _check_rounding(params, options)


def _refuse_grads(params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if grad.shape != param.shape or grad.dtype != param.dtype or grad.device != param.device:
            raise ValueError(
                f"grads[{i}] must match params[{i}] in shape, dtype and device: "
                f"{tuple(param.shape)}, {param.dtype}, {param.device}; "
                f"got {tuple(grad.shape)}, {grad.dtype}, {grad.device}"
            )


def check_options(rule: Rule, options: Mapping[str, Any]) -> None:
    """Raise unless all numbers and flags of the options are in the ranges of the rule."""
    for name in ("lr", "weight_decay"):
        if not math.isfinite(options[name]):
            raise ValueError(f"{name} must be finite, got {options[name]}")
    grad_scale = options["grad_scale"]
    if not (math.isfinite(grad_scale) and grad_scale > 0):
        raise ValueError(f"grad_scale must be finite and above 0, got {grad_scale}")
    if options["decoupled"] and not rule.decouples:
        raise ValueError(f"decoupled must be False for rule {rule.name!r}, got True")
    hyper = options["hyper"]
    if len(hyper) != len(rule.hyper):
        raise ValueError(
            f"hyper must have {len(rule.hyper)} entries for rule {rule.name!r} "
            f"({', '.join(rule.hyper)}), got {len(hyper)}"
        )
    for (name, accepted), value in zip(rule.ranges.items(), hyper, strict=True):
        if value not in accepted:
            raise ValueError(f"{name} must be {accepted.words}, got {value}")


def _check_rounding(params: Sequence[Tensor], options: Mapping[str, Any]) -> None:
    rounding = options["rounding"]
    for dtype in set(map(_dtype, params)) or {torch.bfloat16}:
        check_dtype("params", dtype)
        check_rounding(rounding, dtype)
    for name, wanted in (("corrections", "corrected"), ("seeds", "stochastic")):
        count = len(params) if rounding == wanted else 0
        if len(options[name]) != count:
            raise ValueError(
                f"{name} must have {count} entries for {len(params)} params and rounding "
                f"{rounding!r}, got {len(options[name])}"
            )
    for i, correction in enumerate(options["corrections"]):
        check_out(f"corrections[{i}]", correction, torch.int8, params[i].shape, params[i].device)


def check_states(
    rule: str,
    name: str,
    tensors: Sequence[Tensor],
    params: Sequence[Tensor],
    dtype: torch.dtype,
    per_block: bool = False,
) -> None:
    """Raise unless a list has a tensor for each state of each parameter, of the right size."""
    states = len(RULES[rule].signed)
    if len(tensors) != states * len(params):
        raise ValueError(
            f"{name} must have {states} entries for each of the {len(params)} params (state 1 of "
            f"all, then state 2, and so on), got {len(tensors)}"
        )
    counts = list(map(Tensor.numel, params))
    if per_block:
        counts = [(count + OPTIMIZER_BLOCKSIZE - 1) // OPTIMIZER_BLOCKSIZE for count in counts]
    if (
        list(map(Tensor.numel, tensors)) == counts * states
        and list(map(_device, tensors)) == list(map(_device, params)) * states
        and set(map(_dtype, tensors)) <= {dtype}
        and all(map(Tensor.is_contiguous, tensors))
    ):
        return
    for i, tensor in enumerate(tensors):
        count, param = counts[i % len(params)], params[i % len(params)]
        if tensor.numel() != count:
            raise ValueError(f"{name}[{i}] must have {count} elements, got {tensor.numel()}")
        check_out(f"{name}[{i}]", tensor, dtype, tensor.shape, param.device)


def check_8bit(
    rule: str,
    params: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
) -> None:
    """Raise unless the 8-bit states fit; the order of code maps is not looked at."""
    check_rule(rule, coded=True)
    states = len(RULES[rule].signed)
    check_states(rule, "codes", codes, params, torch.uint8)
    check_states(rule, "absmax", absmax, params, torch.float32, per_block=True)
    if len(code_maps) != states:
        raise ValueError(f"code_maps must have {states} entries, got {len(code_maps)}")
    for i, code_map in enumerate(code_maps):
        check_code(f"code_maps[{i}]", code_map, code_map.device)
