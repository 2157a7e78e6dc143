"""Tiles (AMX) are one state per thread that torch's products use, too."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import kq_functional as kq

kernels = pytest.importorskip("kq_kernels")

THREADS = 4
ROUNDS = 100  # of each thread


@pytest.fixture
def amx() -> Iterator[None]:
    if "amx" not in kernels.available_isas():
        pytest.skip("this processor has no tiles (AMX), or the operating system does not lend them")
    with kernels.use_isa("amx"):
        yield


class Work:
    """Ours and torch's products with one weight, whose shapes no other thread has."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n, k, rows = 96 + 32 * seed, 160 + 64 * seed, 20 + 17 * seed
        weight = torch.randn(n, k, generator=generator).bfloat16()
        self.x = torch.randn(rows, k, generator=generator).bfloat16()
        self.grad = torch.randn(rows, n, generator=generator).bfloat16()
        self.packed, self.state = kq.quantize_4bit(weight, quant_type="nf4")
        self.codes, self.absmax, _ = kq.int8_vectorwise_quant(weight)
        self.dense = kq.dequantize_4bit(self.packed, self.state)

    def ours(self) -> tuple[torch.Tensor, ...]:
        x = self.x.clone().requires_grad_()
        y = kq.linear_4bit(x, self.packed, self.state)
        y.backward(self.grad)
        assert x.grad is not None
        return y.detach(), x.grad

    def ours_in_int8(self) -> tuple[torch.Tensor]:
        return (kq.int8_linear(self.x, self.codes, self.absmax),)

    def torchs(self) -> tuple[torch.Tensor, ...]:
        return torch.nn.functional.linear(self.x, self.dense), self.grad @ self.dense

    def magnitudes(self) -> tuple[torch.Tensor, ...]:
        """Of the sums: those of the products' absolute values."""
        x, grad, dense = (each.float().abs() for each in (self.x, self.grad, self.dense))
        return x @ dense.T, grad @ dense


@pytest.mark.usefixtures("amx")
def test_alternating_with_torch_changes_neither() -> None:
    works = [Work(seed) for seed in range(THREADS)]
    expected = [(work.ours(), work.torchs(), work.ours_in_int8()) for work in works]
    for work, (ours, torchs, _) in zip(works, expected, strict=True):
        terms = sum(work.dense.shape)  # at least as many as a sum of either product has
        for got, wanted, size in zip(ours, torchs, work.magnitudes(), strict=True):
            # A rounding to bfloat16 each, and float32 sums: Higham, ASNA, section 4.2.
            error = 2**-8 * (got.abs() + wanted.abs()) + 2 * terms * 2**-24 * size
            assert torch.all((got.float() - wanted.float()).abs() <= error)

    def alternate(index: int) -> int:
        work = works[index]
        wrong = 0
        for _ in range(ROUNDS):
            for call, wanted in zip(
                (work.ours, work.torchs, work.ours_in_int8), expected[index], strict=True
            ):
                wrong += not all(map(torch.equal, call(), wanted))
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(alternate, range(THREADS))) == [0] * THREADS
