"""The 4-bit linear layer, forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from benchmarks import limits, peers
from benchmarks.data import dtype_name
from benchmarks.harness import Row
from benchmarks.plan import Plan
from benchmarks.work import Linear


class Case(NamedTuple):
    """M rows of x in some dtype, times the transpose of an N×K weight."""

    M: int
    N: int
    K: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.M}-{self.N}x{self.K}-{dtype_name(self.dtype)}"


CASES = [
    Case(M, 4096, 4096, dtype) for dtype in (torch.float32, torch.bfloat16) for M in (1, 16, 512)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_4bit(case: Case, plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Linear.make(*case, plan)
    probes = limits.read(plan) + limits.compute(plan, *{torch.float32, case.dtype})
    contenders = peers.gather("linear", work, plan)
    compare(Row("NF4 linear", str(work), contenders, probes, work.flops))
