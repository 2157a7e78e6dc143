"""The 4-bit linear layer: forward, forward and backward, and what a call costs besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from benchmarks import limits, peers
from benchmarks.data import dtype_name
from benchmarks.harness import Probe, Row
from benchmarks.plan import Plan
from benchmarks.work import Linear, Training


class Case(NamedTuple):
    """M rows of x in some dtype, times the transpose of an N×K weight."""

    M: int
    N: int
    K: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.M}-{self.N}x{self.K}-{dtype_name(self.dtype)}"


DTYPES = (torch.float32, torch.bfloat16)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
ROWS_OF_SMALL = (1, 8, 16, 64, 128, 512, 2048)

CASES = [Case(M, 4096, 4096, dtype) for dtype in DTYPES for M in ROWS]
CASES += [Case(M, N, K, torch.bfloat16) for N, K in ((11008, 4096), (4096, 11008)) for M in ROWS]
CASES += [
    Case(M, N, K, dtype)
    for N, K in ((576, 576), (1536, 576), (5120, 1280))
    for dtype in DTYPES
    for M in ROWS_OF_SMALL
]
# Rows that end within a block.
CASES += [Case(M, 4096, 4098, dtype) for dtype in DTYPES for M in (1, 16, 512)]

TRAINING = [Case(M, 4096, 4096, dtype) for dtype in DTYPES for M in (512, 2048)]


def _probes(case: Case, plan: Plan) -> list[Probe]:
    return limits.read(plan) + limits.compute(plan, *{torch.float32, case.dtype})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_4bit(case: Case, plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Linear.make(*case, plan)
    contenders = peers.gather("linear", work, plan)
    compare(
        Row(
            "NF4 linear",
            str(work),
            contenders,
            _probes(case, plan),
            work.flops,
            rows=len(work.x),
            series=work.series,
        )
    )


@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_training(case: Case, plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Training.make(*case, plan)
    contenders = peers.gather("linear_training", work, plan)
    compare(
        Row(
            "NF4 linear, forward and gradient of x",
            str(work),
            contenders,
            _probes(case, plan),
            work.flops,
            grad=True,
        )
    )


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_overhead(grad: bool, plan: Plan, compare: Callable[[Row], None]) -> None:
    work = Linear.make(1, 64, 64, torch.float32, plan)
    if grad:
        work = work.recorded
    contenders = peers.gather("linear", work, plan.at_rest)
    mode = "forward for a gradient of x" if grad else "no_grad"
    # No probes: what is measured here is neither memory nor arithmetic.
    compare(Row("A call of a small layer", f"{work}, {mode}", contenders, [], grad=grad))
