"""Checking an optimizer: the same for every contender, given a way to read its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import checks
from benchmarks.harness import Contender, Verdict, nothing
from benchmarks.work import Optimizing

State = Mapping[str, Any]


def contender(
    work: Optimizing,
    family: str,
    optimizer: torch.optim.Optimizer,
    params: Sequence[nn.Parameter],
    states: Callable[[State], checks.States],
    *,
    path: str = "",
    prepare: Callable[[], object] = nothing,
) -> Contender:
    """An optimizer that steps `params`.

    Args:
        work: the work.
        family: as in `Contender`.
        optimizer: made for `params`.
        params: from `work.parameters()`.
        states: reads the optimizer's state of a parameter.
        path: as in `Contender`.
        prepare: as in `Contender`.
    """
    prepare()
    optimizer.step()  # makes the state
    state_bytes = sum(
        each.nbytes
        for param in params
        for name, each in optimizer.state[param].items()
        if isinstance(each, Tensor) and not name.startswith("qmap")  # a shared table
    )

    def check() -> Verdict:
        before = [param.detach().clone() for param in params]
        found = [states(optimizer.state[param]) for param in params]
        optimizer.step()
        return checks.all_of(
            checks.optimizer_step(work.rule, *each, work.hyper)
            for each in zip(before, work.grads, found, params, strict=True)
        )

    return Contender(
        family, optimizer.step, check, work.traffic(state_bytes), path=path, prepare=prepare
    )


def dense_states(state: State) -> checks.States:
    """Torch's: in the order of the rules, all that are not the step."""
    values = tuple(each.clone() for name, each in state.items() if name != "step")
    # torch.optim.SGD does not count: any step but the first is like another.
    return checks.States(values, int(state.get("step", 1)), decoded=False)


def full_states(state: State) -> checks.States:
    """32-bit state, under the names that bitsandbytes and kq share."""
    values = tuple(state[name].clone() for name in ("state1", "state2") if name in state)
    return checks.States(values, int(state["step"]), decoded=False)


def coded_states(state: State, maps: Sequence[Tensor]) -> checks.States:
    """8-bit state, likewise; that of a small parameter has 32 bits after all.

    Args:
        state: state of one parameter.
        maps: codebooks of the states, at least as many as there are.
    """
    if "absmax1" not in state:
        return full_states(state)
    values = tuple(
        checks.decode_state(state[f"state{i}"], state[f"absmax{i}"], each)
        for i, each in enumerate(maps, 1)
        if f"state{i}" in state
    )
    return checks.States(values, int(state["step"]), decoded=True)
