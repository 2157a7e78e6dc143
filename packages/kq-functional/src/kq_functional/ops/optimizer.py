"""Ops kq::optimizer_step_8bit and kq::optimizer_step_32bit over lists of tensors, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats import OPTIMIZER_BLOCKSIZE
from ..rules import check_rule
from ..selection import Query, check_query, choose
from .checks import check_code, check_order, check_out
from .library import register

_STATES = 2


def _check(
    rule: str, params: Sequence[Tensor], grads: Sequence[Tensor], steps: Sequence[int]
) -> None:
    check_rule(rule)
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


def _check_options(options: Mapping[str, Any]) -> None:
    for name in ("beta1", "beta2"):
        if not 0 <= options[name] < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {options[name]}")
    for name in ("lr", "eps", "weight_decay"):
        if not math.isfinite(options[name]):
            raise ValueError(f"{name} must be finite, got {options[name]}")
    if options["eps"] < 0:
        raise ValueError(f"eps must not be negative, got {options['eps']}")


def _check_state(
    name: str,
    tensors: Sequence[Tensor],
    params: Sequence[Tensor],
    dtype: torch.dtype,
    per_block: bool = False,
) -> None:
    if len(tensors) != _STATES * len(params):
        raise ValueError(
            f"{name} must have {_STATES} entries for each of the {len(params)} params (state 1 of "
            f"all, then state 2), got {len(tensors)}"
        )
    for i, tensor in enumerate(tensors):
        param = params[i % len(params)]
        count = param.numel()
        if per_block:
            count = (count + OPTIMIZER_BLOCKSIZE - 1) // OPTIMIZER_BLOCKSIZE
        if tensor.numel() != count:
            raise ValueError(f"{name}[{i}] must have {count} elements, got {tensor.numel()}")
        check_out(f"{name}[{i}]", tensor, dtype, tensor.shape, param.device)


def _groups(
    op: str, rule: str, params: Sequence[Tensor], blocksize: int
) -> list[tuple[Query, torch.device, list[int]]]:
    """Return the indices of the parameters of each device and dtype; empty ones are left out."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, param in enumerate(params):
        if param.numel():
            groups.setdefault((param.device, param.dtype), []).append(i)
    return [
        (Query(op, device.type, dtype, rule=rule, blocksize=blocksize), device, indices)
        for (device, dtype), indices in groups.items()
    ]


def _step(
    op: str,
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_lists: tuple[Sequence[Tensor], ...],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    blocksize: int,
    options: dict[str, Any],
) -> None:
    _check_options(options)
    count = len(params)
    groups = _groups(op, rule, params, blocksize)
    # All are chosen before the first one steps: a call that fails changes nothing.
    backends = [choose(query) for query, _, _ in groups]
    for backend, (_, device, indices) in zip(backends, groups, strict=True):
        # A backend wants contiguous memory; a parameter that has none is stepped as a copy.
        dense = [params[i].contiguous() for i in indices]
        states = [
            [tensors[k * count + i] for k in range(_STATES) for i in indices]
            for tensors in state_lists
        ]
        maps = [[code_map.to(device) for code_map in code_maps]] if code_maps else []
        getattr(backend, op)(
            rule,
            dense,
            [grads[i].contiguous() for i in indices],
            *states,
            *maps,
            [steps[i] for i in indices],
            **options,
        )
        for i, stepped in zip(indices, dense, strict=True):
            if stepped is not params[i]:
                params[i].copy_(stepped)


def _check_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
) -> None:
    _check(rule, params, grads, steps)
    _check_state("codes", codes, params, torch.uint8)
    _check_state("absmax", absmax, params, torch.float32, per_block=True)
    if len(code_maps) != _STATES:
        raise ValueError(f"code_maps must have {_STATES} entries, got {len(code_maps)}")
    for i, code_map in enumerate(code_maps):
        check_code(f"code_maps[{i}]", code_map, code_map.device)


def _step_8bit_fake(
    rule: str, params: Sequence[Tensor], *tensors_and_steps: Any, **_options: Any
) -> None:
    _check_8bit(rule, params, *tensors_and_steps)
    for query, _, _ in _groups("optimizer_step_8bit", rule, params, OPTIMIZER_BLOCKSIZE):
        check_query(query)


def _step_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    _check_8bit(rule, params, grads, codes, absmax, code_maps, steps)
    for i, code_map in enumerate(code_maps):
        check_order(f"code_maps[{i}]", code_map)
    _step(
        "optimizer_step_8bit",
        rule,
        params,
        grads,
        (codes, absmax),
        [code_map.contiguous() for code_map in code_maps],
        steps,
        OPTIMIZER_BLOCKSIZE,
        options,
    )


def _step_32bit_fake(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **_options: Any,
) -> None:
    _check(rule, params, grads, steps)
    _check_state("states", states, params, torch.float32)
    for query, _, _ in _groups("optimizer_step_32bit", rule, params, 0):
        check_query(query)


def _step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    _check(rule, params, grads, steps)
    _check_state("states", states, params, torch.float32)
    _step("optimizer_step_32bit", rule, params, grads, (states,), (), steps, 0, options)


_OPTIONS = (
    "*, float lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled, "
    "bool maximize"
)

optimizer_step_8bit = register(
    "optimizer_step_8bit(str rule, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] codes, "
    f"Tensor(c!)[] absmax, Tensor[] code_maps, int[] steps, {_OPTIONS}) -> ()",
    _step_8bit,
    _step_8bit_fake,
)
optimizer_step_32bit = register(
    "optimizer_step_32bit(str rule, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] states, "
    f"int[] steps, {_OPTIONS}) -> ()",
    _step_32bit,
    _step_32bit_fake,
)
