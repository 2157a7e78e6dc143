"""Quantizing and decoding, with 4 and with 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from benchmarks import limits, peers
from benchmarks.data import dtype_name
from benchmarks.harness import Row
from benchmarks.plan import Plan
from benchmarks.work import Coding


class Case(NamedTuple):
    """An R×C matrix of some dtype; whether the result goes to memory that exists."""

    R: int
    C: int
    dtype: torch.dtype
    reuse: bool

    def __str__(self) -> str:
        output = "reused" if self.reuse else "fresh"
        return f"{self.R}x{self.C}-{dtype_name(self.dtype)}-{output}"


CASES = [
    Case(4096, 4096, dtype, reuse)
    for dtype in (torch.float32, torch.bfloat16)
    for reuse in (False, True)
]
SUBJECTS = {
    "quantize_4bit": ("NF4 quantize", Coding.make_4bit),
    "dequantize_4bit": ("NF4 dequantize", Coding.make_4bit),
    "quantize_blockwise": ("8-bit quantize", Coding.make_8bit),
    "dequantize_blockwise": ("8-bit dequantize", Coding.make_8bit),
}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("function", SUBJECTS)
def test_coding(function: str, case: Case, plan: Plan, compare: Callable[[Row], None]) -> None:
    subject, make = SUBJECTS[function]
    work = make(*case, plan)
    compare(Row(subject, str(work), peers.gather(function, work, plan), limits.copy(plan)))
