"""Mistakes in the linear layers of many experts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kq_conformance.floats import Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import NESTED_BLOCKSIZE, groups, linear
from kq_conformance.reference_backend import ReferenceBackend

__all__: list[str] = []

_TILE = 4
_WRAP = 1 << 16

Counts = Sequence[int]


def _own(bias: Float64 | None, expert: int) -> Float64 | None:
    return None if bias is None else bias[expert]


@killed_by("linear_4bit_grouped/nf4/b64/float32/uneven-n33-k257")
class CountsOffByOne(ReferenceBackend):
    """The last row of each expert but the last goes to the next one."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        ends = np.maximum(np.cumsum(counts) - 1, 0)
        ends[-1] += 1
        moved = np.diff(ends, prepend=0).tolist()
        return super().linear_grouped(x, weights, moved, bias)


@killed_by("linear_4bit_grouped/nf4/b64/float32/all-to-one-n33-k257")
class NextExpert(ReferenceBackend):
    """The index of an expert is off by one."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        return super().linear_grouped(x, np.roll(weights, -1, axis=0), counts, bias)


@killed_by("linear_4bit_grouped/nf4/b64/float32/zeros-between-n33-k257")
class ExpertsWithoutRowsSkipped(ReferenceBackend):
    """Experts without rows are not counted, so that those behind them get the wrong weights."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        return super().linear_grouped(x, weights, [count for count in counts if count], bias)


@killed_by("linear_4bit_grouped/nf4/b64/float32/uneven-n33-k257/bias/nested")
class BiasOfTheFirstExpert(ReferenceBackend):
    """All rows get the bias of the first expert."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        same = None if bias is None else np.broadcast_to(bias[:1], bias.shape)
        return super().linear_grouped(x, weights, counts, same)


@killed_by("linear_4bit_grouped/nf4/b64/float32/one-each-n33-k257")
class SingleRowsTakeTheFirstExpert(ReferenceBackend):
    """The path for one row was written for one weight, and does not move on to that of the row."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        y = super().linear_grouped(x, weights, counts, bias)
        for expert, rows in enumerate(groups(counts)):
            if counts[expert] == 1:
                y[rows] = linear(x[rows], weights[0], _own(bias, expert))
        return y


@killed_by("linear_4bit_grouped/nf4/b64/float32/uneven-n33-k257")
class TilesReachIntoTheNextExpert(ReferenceBackend):
    """Tiles of four rows are stored whole, over the first rows of the next expert."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        y = super().linear_grouped(x, weights, counts, bias)
        for expert, rows in reversed(list(enumerate(groups(counts)))):
            tiles = slice(rows.start, rows.start + -(-counts[expert] // _TILE) * _TILE)
            y[tiles] = linear(x[tiles], weights[expert], _own(bias, expert))
        return y


@killed_by("linear_4bit_grouped/nf4/b64/float32/all-to-one-n33-k257")
class RowsBeyondTheCapacityDropped(ReferenceBackend):
    """An expert takes twice its even share of the rows; the rest of them get zeros."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        y = super().linear_grouped(x, weights, counts, bias)
        capacity = 2 * -(-len(x) // len(counts))
        for rows in groups(counts):
            y[rows][capacity:] = 0
        return y


@killed_by("linear_4bit_grouped/nf4/b64/float32/damaged-n6-k130/bias/nonfinite")
class AllExpertsMaskedByZero(ReferenceBackend):
    """Each row is multiplied by all weights, and what is not wanted by zero: NaN stays NaN."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        y = np.zeros((len(x), weights.shape[1]))
        for expert, rows in enumerate(groups(counts)):
            wanted = np.zeros((len(x), 1))
            wanted[rows] = 1
            with np.errstate(invalid="ignore"):
                y += wanted * linear(x, weights[expert], _own(bias, expert))
        return y


@killed_by("linear_4bit_grouped/nf4/b64/float32/zeros-between-n33-k257")
class RowsOfTheLastExpertNotWritten(ReferenceBackend):
    """The loop ends one expert early: the rows of the last one keep what was in the buffer."""

    def linear_4bit_grouped(
        self, x: Any, packed: Any, scales: Any, bias: Any, counts: Any, out: Any, **o: Any
    ) -> None:
        before = self.load(out)
        super().linear_4bit_grouped(x, packed, scales, bias, counts, out, **o)
        last = max((i for i, count in enumerate(counts) if count), default=0)
        rows = list(groups(counts))[last]
        after = self.load(out)
        after[rows] = before[rows]
        self.store(out, after)


@killed_by("linear_4bit_grouped/nf4/b64/float32/large-features-n21867-k7/nested")
class IndexOfAnExpertsRowWraps(ReferenceBackend):
    """Stands for an overflow: the index of a row in the weights of all experts has 16 bits."""

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Counts, bias: Float64 | None
    ) -> Float64:
        rows = weights.reshape(-1, weights.shape[2])
        wrapped = rows[np.arange(len(rows)) % _WRAP].reshape(weights.shape)
        return super().linear_grouped(x, wrapped, counts, bias)


@killed_by("linear_4bit_grouped/nf4/b64/float32/uneven-n33-k257/bias/nested")
class NestedBlocksBeginAtEachExpert(ReferenceBackend):
    """Blocks of nested scales are counted from the first scale of the expert."""

    _experts = 0

    def linear_4bit_grouped(
        self, x: Any, packed: Any, scales: Any, bias: Any, counts: Any, out: Any, **o: Any
    ) -> None:
        self._experts = len(counts)
        super().linear_4bit_grouped(x, packed, scales, bias, counts, out, **o)
        self._experts = 0

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        if not self._experts:
            return super().nested(codes, absmax, code, offset)
        decoded = np.empty(codes.shape)
        height = len(codes) // self._experts
        for expert in range(self._experts):
            own = slice(expert * height, (expert + 1) * height)
            first = own.start * codes.shape[1] // NESTED_BLOCKSIZE
            # No expert has more blocks than the tensor: what is missing at its end is repeated.
            inner = np.append(absmax[first:], absmax[-1:])
            blocks = -(-codes[own].size // NESTED_BLOCKSIZE)
            decoded[own] = super().nested(codes[own], inner[:blocks], code, offset)
        return decoded


@killed_by("linear_4bit_grouped_backward/nf4/b64/float32/uneven-n33-k257/nested")
class GradientOfThePreviousExpert(ReferenceBackend):
    """The gradient is taken with the weight of the expert before."""

    def linear_grouped_backward(self, grad: Float64, weights: Float64, counts: Counts) -> Float64:
        return super().linear_grouped_backward(grad, np.roll(weights, 1, axis=0), counts)


@killed_by("linear_4bit_grouped_backward/nf4/b64/float32/many-experts-n9-k130/nested")
class GradientOfTheFirstExpertsOnly(ReferenceBackend):
    """A kernel takes 32 experts at once, and is started once."""

    def linear_grouped_backward(self, grad: Float64, weights: Float64, counts: Counts) -> Float64:
        grad_x = super().linear_grouped_backward(grad, weights, counts)
        grad_x[sum(counts[:32]) :] = 0
        return grad_x
