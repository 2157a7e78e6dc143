"""How a bfloat16 parameter is stored after a step, and what is kept to do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ROUNDING_IDS: Mapping[str, int] = {"nearest": 0, "stochastic": 1, "corrected": 2}
"""Numbers of the roundings in checkpoints; never reused."""

_SEEDS = 2**63 - 1


def rounding_for(dtype: torch.dtype, options: Mapping[str, Any]) -> str:
    """The rounding of a parameter of a dtype.

    A float32 parameter is stored as it was computed: there is nothing to round, whatever is asked.

    Raises:
        ValueError: for a float16 parameter and anything but "nearest".
    """
    asked: str = options["rounding"]
    if dtype == torch.float16 and asked != "nearest":
        raise ValueError(f"rounding={asked!r} needs bfloat16 (or float32) parameters, got float16")
    return asked if dtype == torch.bfloat16 else "nearest"


def draw_seed() -> Tensor:
    """A seed for `stochastic`, int64 on the CPU, from torch's default generator."""
    return torch.randint(_SEEDS, (), dtype=torch.int64, device="cpu")


def rounding_arguments(rounding: str, states: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Arguments of kq_functional's steps."""
    arguments: dict[str, Any] = {"rounding": rounding}
    if rounding == "stochastic":
        arguments["seeds"] = [int(state["seed"]) for state in states]
    elif rounding == "corrected":
        arguments["corrections"] = [state["correction"] for state in states]
    return arguments
