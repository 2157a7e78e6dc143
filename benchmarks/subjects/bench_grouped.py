"""The 4-bit layer of a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks import limits, peers
from benchmarks.data import dtype_name
from benchmarks.grouped import Grouped
from benchmarks.harness import Row
from benchmarks.plan import Plan

SHAPES = [(64, 256, 256), (8, 1408, 2048)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grouped(
    shape: tuple[int, int, int], dtype: torch.dtype, plan: Plan, compare: Callable[[Row], None]
) -> None:
    work = Grouped.make(*shape, dtype, plan)
    probes = limits.read(plan) + limits.compute(plan, *{torch.float32, dtype})
    contenders = peers.gather("linear_grouped", work, plan)
    compare(Row("NF4 mixture of experts", str(work), contenders, probes, work.flops))
