"""Checks of the optimizer steps, shared by real and fake kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats import OPTIMIZER_BLOCKSIZE, dtype_name
from ..rules import RULES, Rule, check_rounding, check_rule
from .checks import check_code, check_out


def check_call(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    steps: Sequence[int],
    options: Mapping[str, Any],
) -> None:
    """Raise unless all but the states fits."""
    check_rule(rule)
    _check_options(RULES[rule], options)
    for name, items in (("grads", grads), ("steps", steps)):
        if len(items) != len(params):
            raise ValueError(
                f"{name} must have one entry for each of the {len(params)} params, got {len(items)}"
            )
    for i, (param, grad, step) in enumerate(zip(params, grads, steps, strict=True)):
        if grad.shape != param.shape or grad.dtype != param.dtype or grad.device != param.device:
            raise ValueError(
                f"grads[{i}] must match params[{i}] in shape, dtype and device: "
                f"{tuple(param.shape)}, {param.dtype}, {param.device}; "
                f"got {tuple(grad.shape)}, {grad.dtype}, {grad.device}"
            )
        if step < 1:
            raise ValueError(f"steps[{i}] must be at least 1, got {step}")
    _check_rounding(params, options)


def _check_options(rule: Rule, options: Mapping[str, Any]) -> None:
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
    check_rounding(rounding)
    for name, wanted in (("corrections", "corrected"), ("seeds", "stochastic")):
        items, count = options[name], len(params) if rounding == wanted else 0
        if len(items) != count:
            raise ValueError(
                f"{name} must have {count} entries, got {len(items)}: one for each of "
                f"the {len(params)} params if rounding is {wanted!r}, else none"
            )
    if rounding == "nearest":
        return
    for i, param in enumerate(params):
        if param.dtype != torch.bfloat16:
            raise ValueError(
                f"rounding must be 'nearest' unless all params are bfloat16, got {rounding!r} and "
                f"params[{i}] of {dtype_name(param.dtype)}"
            )
    for i, correction in enumerate(options["corrections"]):
        param = params[i]
        check_out(f"corrections[{i}]", correction, torch.int8, param.shape, param.device)


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
    for i, tensor in enumerate(tensors):
        param = params[i % len(params)]
        count = param.numel()
        if per_block:
            count = (count + OPTIMIZER_BLOCKSIZE - 1) // OPTIMIZER_BLOCKSIZE
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
    states = len(RULES[rule].signed)
    if not states:
        raise ValueError(f"rule must have states to be kept in 8 bits, got {rule!r}")
    check_states(rule, "codes", codes, params, torch.uint8)
    check_states(rule, "absmax", absmax, params, torch.float32, per_block=True)
    if len(code_maps) != states:
        raise ValueError(f"code_maps must have {states} entries, got {len(code_maps)}")
    for i, code_map in enumerate(code_maps):
        check_code(f"code_maps[{i}]", code_map, code_map.device)
