"""The layer of a mixture of experts, as work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import kq_functional as kq
from benchmarks import checks
from benchmarks.data import dtype_name, gaussian, nbytes, rotate
from benchmarks.harness import Verdict
from benchmarks.plan import Plan
from benchmarks.work import BLOCKSIZE_4BIT, WEIGHT_SCALE


@dataclass(frozen=True)
class Grouped:
    """The rows of x, sorted by expert, times the NF4 weight of their expert.

    Attributes:
        x: [T, K], float32 or bfloat16.
        counts: rows of each expert, uneven, some 0.
        packed: codes of the weights [E, N, K].
        state: how they map to values.
    """

    x: Tensor
    counts: list[int]
    packed: Tensor
    state: kq.QuantState

    @classmethod
    def make(cls, E: int, N: int, K: int, dtype: torch.dtype, plan: Plan) -> Grouped:
        """Random operands, from 0 to 15 rows for an expert."""
        weight = gaussian(E, plan.size(N), plan.size(K), scale=WEIGHT_SCALE)
        counts = [7 * expert % 16 for expert in range(E)]
        x = gaussian(sum(counts), plan.size(K), dtype=dtype)
        return cls(x, counts, *kq.quantize_4bit(weight, blocksize=BLOCKSIZE_4BIT))

    def copies(self, plan: Plan) -> Iterator[Grouped]:
        """The same weights in other memory, in turn."""

        def make() -> Grouped:
            state = replace(self.state, absmax=self.state.absmax.clone())
            return replace(self, packed=self.packed.clone(), state=state)

        return rotate(make, self.traffic, plan.working_set)

    def experts(self) -> list[tuple[Tensor, kq.QuantState]]:
        """The weight of each expert, as views."""
        E, *shape = self.state.shape
        absmax = self.state.absmax.view(E, -1)
        return [
            (packed, replace(self.state, shape=torch.Size(shape), absmax=scales.view(shape[0], -1)))
            for packed, scales in zip(self.packed.view(E, shape[0], -1), absmax, strict=True)
        ]

    def judge(self, x: Tensor, run: Callable[[], Tensor]) -> Verdict:
        """Each expert's product within the bound of a single layer's.

        Args:
            x: as the contender reads it.
            run: computes the result.
        """
        parts = zip(x.split(self.counts), self.experts(), run().split(self.counts), strict=True)
        return checks.all_of(
            checks.linear_4bit(rows, packed, state.absmax, y, state.blocksize)
            for rows, (packed, state), y in parts
            if len(rows)
        )

    @property
    def traffic(self) -> int:
        """Bytes of the quantized weights of the experts that have rows."""
        return nbytes(self.packed, self.state.absmax) * self.active // len(self.counts)

    @property
    def active(self) -> int:
        """Experts that have rows."""
        return sum(count > 0 for count in self.counts)

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each product."""
        return 2 * len(self.x) * self.state.shape[1:].numel()

    def __str__(self) -> str:
        E, N, K = self.state.shape
        return f"{len(self.x)} rows, {E} experts, {N} x {K}, {dtype_name(self.x.dtype)}"
