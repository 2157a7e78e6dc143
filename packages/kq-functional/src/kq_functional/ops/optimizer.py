"""Ops kq::optimizer_step_8bit and kq::optimizer_step_32bit over lists of tensors, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..formats import OPTIMIZER_BLOCKSIZE
from ..rules import RULES
from ..selection import Query, check_query, choose
from .checks import check_order
from .library import register
from .optimizer_checks import check_8bit, check_call, check_states

_device, _dtype = attrgetter("device"), attrgetter("dtype")


class _Group(NamedTuple):
    """The parameters of one device and dtype: those at `indices`, or all."""

    query: Query
    device: torch.device
    indices: list[int] | None

    def of(self, items: Sequence[Any], count: int, repeats: int = 1) -> Sequence[Any]:
        """Return the group's own entries of a list: one for each of `count` params, repeatedly."""
        if self.indices is None or not items:
            return items
        return [items[k * count + i] for k in range(repeats) for i in self.indices]


def _groups(op: str, rule: str, params: Sequence[Tensor], rounding: str) -> list[_Group]:
    """Return the groups; empty parameters belong to none."""
    blocksize = OPTIMIZER_BLOCKSIZE if op == "optimizer_step_8bit" else 0

    def group(device: torch.device, dtype: torch.dtype, indices: list[int] | None) -> _Group:
        query = Query(op, device.type, dtype, "", blocksize, rule, rounding)
        return _Group(query, device, indices)

    devices, dtypes = set(map(_device, params)), set(map(_dtype, params))
    if len(devices) == len(dtypes) == 1 and all(map(Tensor.numel, params)):
        return [group(devices.pop(), dtypes.pop(), None)]
    found: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, param in enumerate(params):
        if param.numel():
            found.setdefault((param.device, param.dtype), []).append(i)
    return [group(*kind, indices) for kind, indices in found.items()]


@torch.no_grad()
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
    backends = [choose(group.query) for group in groups]
    for backend, group in zip(backends, groups, strict=True):
        own = group.of(params, count)
        # A backend wants contiguous memory; a parameter that has none is stepped as a copy.
        dense = list(map(Tensor.contiguous, own))
        maps = [[code_map.to(group.device) for code_map in code_maps]] if code_maps else []
        per_param = {name: group.of(options[name], count) for name in ("corrections", "seeds")}
        getattr(backend, op)(
            rule,
            dense,
            list(map(Tensor.contiguous, group.of(grads, count))),
            *(group.of(tensors, count, states) for tensors in state_lists),
            *maps,
            group.of(steps, count),
            **common | per_param,
        )
        for param, stepped in zip(own, dense, strict=True):
            if stepped is not param:
                param.copy_(stepped)
    # A backend writes where torch does not see it; a graph that needs the old values must notice.
    increment_version(params)


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
    for group in _groups("optimizer_step_8bit", rule, params, options["rounding"]):
        check_query(group.query)


def step_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    """Step on real tensors: what op kq::optimizer_step_8bit does."""
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
    for group in _groups("optimizer_step_32bit", rule, params, options["rounding"]):
        check_query(group.query)


def step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    """Step on real tensors: what op kq::optimizer_step_32bit does."""
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
    step_8bit,
    _step_8bit_fake,
)
optimizer_step_32bit = register(
    "optimizer_step_32bit(str rule, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] states, "
    f"int[] steps, {_OPTIONS}) -> ()",
    step_32bit,
    _step_32bit_fake,
)
