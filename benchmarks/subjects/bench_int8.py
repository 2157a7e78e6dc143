"""The linear layer of LLM.int8(): forward, with outliers, and forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from benchmarks import limits, peers
from benchmarks.data import dtype_name
from benchmarks.harness import Probe, Row
from benchmarks.int8 import THRESHOLD, Int8, Int8Training
from benchmarks.plan import Plan


class Case(NamedTuple):
    """M rows of x in some dtype, times the transpose of an N×K weight."""

    M: int
    N: int
    K: int
    dtype: torch.dtype
    threshold: float = 0.0

    def __str__(self) -> str:
        outliers = "-outliers" if self.threshold else ""
        return f"{self.M}-{self.N}x{self.K}-{dtype_name(self.dtype)}{outliers}"


ROWS = (1, 4, 16, 64, 512, 2048)
ROWS_OF_SMALL = (1, 16, 128, 512)

CASES = [Case(M, N, 4096, torch.bfloat16) for N in (4096, 11008) for M in ROWS]
CASES += [Case(M, 4096, 4096, torch.bfloat16, THRESHOLD) for M in ROWS]
CASES += [Case(M, 4096, 4096, torch.float32) for M in ROWS]
CASES += [
    Case(M, 576, 576, dtype) for dtype in (torch.float32, torch.bfloat16) for M in ROWS_OF_SMALL
]
# Rows that end within a group of four products.
CASES += [Case(M, 4096, 4098, torch.bfloat16) for M in (1, 16, 512)]

TRAINING = [(512, 4096, 4096, dtype) for dtype in (torch.float32, torch.bfloat16)]


def _probes(plan: Plan) -> list[Probe]:
    return limits.read(plan) + limits.compute_int8(plan)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_int8(case: Case, plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Int8.make(*case, plan)
    contenders = peers.gather("linear_int8", work, plan)
    compare(
        Row(
            "int8 linear",
            str(work),
            contenders,
            _probes(plan),
            work.flops,
            rows=len(work.x),
            series=work.series,
        )
    )


@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_training_int8(
    case: tuple[int, int, int, torch.dtype], plan: Plan, compare: Callable[[Row], None]
) -> None:
    work = Int8Training.make(*case, plan)
    contenders = peers.gather("linear_int8_training", work, plan)
    probes = limits.read(plan) + limits.compute(plan, torch.float32)
    title = "int8 linear, forward and gradient of x"
    compare(Row(title, str(work), contenders, probes, work.flops, grad=True))


def test_overhead_int8(plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Int8.make(1, 64, 64, torch.float32, 0.0, plan)
    contenders = peers.gather("linear_int8", work, plan.at_rest)
    # No probes: what is measured here is neither memory nor arithmetic.
    compare(Row("A call of a small int8 layer", f"{work}, no_grad", contenders, []))
