"""Tests of optimizer steps run on every backend that declares what they ask for."""

from __future__ import annotations

import pytest
import torch

import kq_functional as kq


def need(op: str, rule: str, dtype: torch.dtype = torch.float32, rounding: str = "nearest") -> None:
    """Skip the test unless the pinned backend declares this."""
    if kq.explain(op, dtype=dtype, rule=rule, rounding=rounding).chosen is None:
        pytest.skip(f"{op} is not declared for this")
