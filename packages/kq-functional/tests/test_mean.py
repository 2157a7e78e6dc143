"""The fixed order of additions behind the offset of double quantization."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kq_functional.ops.mean import cascade_mean

SIZES = [*range(1, 140), 255, 256, 1000, 4096, 13_824, 27_648, 32_768, 40_003, 262_144, 884_736]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_equals_torch_on_one_thread() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        x = torch.rand(size, generator=generator) * 10
        assert torch.equal(cascade_mean(x), x.mean()), size


@pytest.mark.usefixtures("threads")
def test_does_not_depend_on_threads() -> None:
    x = torch.rand(300_001, generator=torch.Generator().manual_seed(0))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(cascade_mean(x).item())
    assert len(set(results)) == 1


def test_close_to_the_true_mean() -> None:
    """Any order of n − 1 additions of non-negative numbers errs by at most (n − 1) u relatively."""
    x = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    exact = x.double().mean().item()
    assert abs(cascade_mean(x).item() - exact) <= 5000 * 2.0**-24 * exact


def test_shapes_strides_and_empty() -> None:
    x = torch.rand(30, 50)
    assert torch.equal(cascade_mean(x), cascade_mean(x.flatten()))
    assert torch.equal(cascade_mean(x.t()), cascade_mean(x.t().flatten()))
    empty = cascade_mean(torch.empty(0))
    assert empty.shape == ()
    assert empty == 0


def test_only_float32() -> None:
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        cascade_mean(torch.zeros(3, dtype=torch.float64))
