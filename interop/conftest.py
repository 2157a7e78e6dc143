"""Real weights for the comparison with bitsandbytes, and the record of what was found."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file

from demo import assets
from interop.paths import CACHE, REPORT


@pytest.fixture(scope="session", params=["smollm2", "minilm"])
def weights(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    """Every float tensor of a model, float32."""
    folder = getattr(assets, request.param)(CACHE)
    tensors = load_file(folder / "model.safetensors")
    return {name: t.float() for name, t in tensors.items() if t.is_floating_point()}


@pytest.fixture(scope="session")
def report() -> Iterator[dict]:
    """Counts by test, written to build/interop/report.json at the end."""
    findings: dict = {}
    yield findings
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(findings, indent=2) + "\n")
