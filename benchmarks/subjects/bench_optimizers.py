"""The optimizer step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import limits, peers
from benchmarks.harness import Row
from benchmarks.plan import Plan
from benchmarks.work import Optimizing

SHAPES = [(4096, 4096)]


# Title, rule and the function of the peers.
STEPS = [
    ("AdamW step", "adam", "adamw"),
    ("AdamW step, 32-bit state", "adam", "adamw_32bit"),
    ("Lion step", "lion", "lion"),
    ("SGD step with momentum", "momentum", "momentum"),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("title", "rule", "function"), STEPS)
def test_step(
    title: str,
    rule: str,
    function: str,
    shape: tuple[int, ...],
    plan: Plan,
    compare: Callable[[Row], None],
) -> None:
    rows, cols = shape
    work = Optimizing.make(rows, cols, plan, rule)
    compare(Row(title, str(work), peers.gather(function, work, plan), limits.update(plan)))
