"""The optimizer step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks import limits, peers
from benchmarks.harness import Row
from benchmarks.plan import Plan
from benchmarks.work import Optimizing

# Shapes of the parameters: one large one, and the 500 of a model of small layers.
LARGE = [(4096, 4096)]
_LENGTHS = torch.randint(1000, 50000, (500,), generator=torch.Generator().manual_seed(0))
SMALL = [(length,) for length in _LENGTHS.tolist()]

# Title, rule, the function of the peers, and the parameters.
STEPS = [
    ("AdamW step", "adam", "adamw", LARGE),
    ("AdamW step", "adam", "adamw", SMALL),
    ("AdamW step, 32-bit state", "adam", "adamw_32bit", LARGE),
    ("Lion step", "lion", "lion", LARGE),
    ("SGD step with momentum", "momentum", "momentum", LARGE),
]


@pytest.mark.parametrize(("title", "rule", "function", "shapes"), STEPS)
def test_step(
    title: str,
    rule: str,
    function: str,
    shapes: list[tuple[int, ...]],
    plan: Plan,
    compare: Callable[[Row], None],
) -> None:
    work = Optimizing.make(shapes, plan, rule)
    compare(Row(title, str(work), peers.gather(function, work, plan), limits.update(plan)))
