"""A language model; only with --kq-model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.data import dtype_name
from benchmarks.harness import Row
from benchmarks.plan import Plan

WORKS = {
    "decode": "decode a token",
    "prefill": "read a prompt of 512 tokens",
    "train": "QLoRA step on 4 x 256 tokens, rank 16",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("work", WORKS)
def test_model(work: str, dtype: torch.dtype, plan: Plan, compare: Callable[[Row], None]) -> None:
    # Imported here because it needs transformers, PEFT and bitsandbytes.
    from benchmarks.models import Language

    training = work == "train"
    contenders = getattr(Language.make(dtype, training, plan), work)()
    line = f"{WORKS[work]}, {dtype_name(dtype)}"
    compare(Row("SmolLM2-135M", line, contenders, [], grad=training))
