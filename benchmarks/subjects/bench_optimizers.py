"""The optimizer step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import limits, peers
from benchmarks.harness import Row
from benchmarks.plan import Plan
from benchmarks.work import Optimizing

SHAPES = [(4096, 4096)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adamw(shape: tuple[int, int], plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Optimizing.make(*shape, plan)
    compare(Row("AdamW step", str(work), peers.gather("adamw", work, plan), limits.update(plan)))
