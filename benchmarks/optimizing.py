"""Checking an optimizer: the same for every contender, given a way to read its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    param: nn.Parameter,
    moments: Callable[[State], checks.Moments],
    *,
    path: str = "",
    prepare: Callable[[], object] = nothing,
) -> Contender:
    """An optimizer that steps `param`.

    Args:
        work: the work.
        family: as in `Contender`.
        optimizer: made for `param`.
        param: from `work.parameter()`.
        moments: reads the optimizer's state of the parameter.
        path: as in `Contender`.
        prepare: as in `Contender`.
    """
    prepare()
    optimizer.step()  # makes the state
    state_bytes = sum(
        each.nbytes
        for name, each in optimizer.state[param].items()
        if isinstance(each, Tensor) and not name.startswith("qmap")  # a shared table
    )

    def check() -> Verdict:
        before = param.detach().clone()
        found = moments(optimizer.state[param])
        optimizer.step()
        return checks.adam_step(before, work.grad, found, param, work.hyper)

    return Contender(
        family, optimizer.step, check, work.traffic(state_bytes), path=path, prepare=prepare
    )


def dense_moments(state: State) -> checks.Moments:
    """Torch's state."""
    first, second = (state[name].clone() for name in ("exp_avg", "exp_avg_sq"))
    return checks.Moments(first, second, int(state["step"]), decoded=False)


def coded_moments(state: State, maps: tuple[Tensor, Tensor]) -> checks.Moments:
    """8-bit state, under the names that bitsandbytes and kq share.

    Args:
        state: state of one parameter.
        maps: codebooks of the two moments.
    """
    first, second = (
        checks.decode_moment(state[f"state{i}"], state[f"absmax{i}"], maps[i - 1]) for i in (1, 2)
    )
    return checks.Moments(first, second, int(state["step"]), decoded=True)
