"""Ops kq::optimizer_step_8bit and kq::optimizer_step_32bit over lists of tensors, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats import OPTIMIZER_BLOCKSIZE
from ..rules import RULES
from ..selection import Query, check_query, choose
from .checks import check_order
from .library import register
from .optimizer_checks import check_8bit, check_call, check_states


def _groups(
    op: str, rule: str, params: Sequence[Tensor], rounding: str
) -> list[tuple[Query, torch.device, list[int]]]:
    """Return the indices of the parameters of each device and dtype; empty ones are left out."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, param in enumerate(params):
        if param.numel():
            groups.setdefault((param.device, param.dtype), []).append(i)
    blocksize = OPTIMIZER_BLOCKSIZE if op == "optimizer_step_8bit" else 0
    return [
        (
            Query(op, device.type, dtype, rule=rule, blocksize=blocksize, rounding=rounding),
            device,
            indices,
        )
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
    options: Mapping[str, Any],
) -> None:
    count, states = len(params), len(RULES[rule].signed)
    groups = _groups(op, rule, params, options["rounding"])
    hyper = dict(zip(RULES[rule].hyper, options["hyper"], strict=True))
    common = {name: options[name] for name in options if name != "hyper"} | hyper
    # All are chosen before the first one steps: a call that fails changes nothing.
    backends = [choose(query) for query, _, _ in groups]
    for backend, (_, device, indices) in zip(backends, groups, strict=True):
        # A backend wants contiguous memory; a parameter that has none is stepped as a copy.
        dense = [params[i].contiguous() for i in indices]
        own = [
            [tensors[k * count + i] for k in range(states) for i in indices]
            for tensors in state_lists
        ]
        maps = [[code_map.to(device) for code_map in code_maps]] if code_maps else []
        per_param = {
            name: [options[name][i] for i in indices] if options[name] else []
            for name in ("corrections", "seeds")
        }
        getattr(backend, op)(
            rule,
            dense,
            [grads[i].contiguous() for i in indices],
            *own,
            *maps,
            [steps[i] for i in indices],
            **common | per_param,
        )
        for i, stepped in zip(indices, dense, strict=True):
            if stepped is not params[i]:
                params[i].copy_(stepped)


def _step_8bit_fake(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    check_call(rule, params, grads, steps, options)
    check_8bit(rule, params, codes, absmax, code_maps)
    for query, _, _ in _groups("optimizer_step_8bit", rule, params, options["rounding"]):
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
    check_call(rule, params, grads, steps, options)
    check_8bit(rule, params, codes, absmax, code_maps)
    for i, code_map in enumerate(code_maps):
        check_order(f"code_maps[{i}]", code_map)
    maps = [code_map.contiguous() for code_map in code_maps]
    _step("optimizer_step_8bit", rule, params, grads, (codes, absmax), maps, steps, options)


def _step_32bit_fake(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    check_call(rule, params, grads, steps, options)
    check_states(rule, "states", states, params, torch.float32)
    for query, _, _ in _groups("optimizer_step_32bit", rule, params, options["rounding"]):
        check_query(query)


def _step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    check_call(rule, params, grads, steps, options)
    check_states(rule, "states", states, params, torch.float32)
    _step("optimizer_step_32bit", rule, params, grads, (states,), (), steps, options)


_OPTIONS = (
    "*, float lr, float weight_decay, bool decoupled, bool maximize, float grad_scale, "
    "str rounding, Tensor(z!)[] corrections, int[] seeds, float[] hyper"
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
