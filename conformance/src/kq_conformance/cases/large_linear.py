"""A linear layer of one row, or its gradient, whose weights are windows of a short array.

With block b of weight row n the short array's block n + b, sums over n or over b are correlations,
and a Fourier transform in float64 computes them all: to about 2**-48 of their largest value, which
is nothing beside the bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import (
    Judgement,
    Strictness,
    Sums,
    WeightForm,
    exact_scales,
    judge_sums,
    weight_forms,
)
from kq_conformance.cases.linear_problems import Linear4bit, Linear4bitBackward
from kq_conformance.cases.weights import Weights
from kq_conformance.floats import Array, Float64, Stored, values_of
from kq_conformance.reference import codebook_4bit, count_blocks, unpack
from kq_conformance.subject import Outputs, Subject

__all__ = ["LargeLinear", "correlate"]


def correlate(short: Float64, long: Float64) -> Float64:
    """Σ_i short[i, j] · long[i + s, j] for each shift s that fits: [S, J] and [L, J] -> [L−S+1, J].

    Computed by a cyclic correlation of length at least L, in which these shifts do not wrap.
    """
    size = 1 << (len(long) - 1).bit_length()
    spectrum = np.fft.rfft(short, size, axis=0).conj() * np.fft.rfft(long, size, axis=0)
    whole: Float64 = np.fft.irfft(spectrum, size, axis=0)
    return whole[: len(long) - len(short) + 1]


@dataclass(frozen=True, eq=False)
class LargeLinear:
    """One call with x [1, K] or grad [1, N].

    Attributes:
        row: x, or the incoming gradient.
        weights: windows [N, K] of the short array.
        packed: uint8 [blocks, blocksize / 2], the short array.
        absmax: float64 [blocks].
        gradient: which of the two.
    """

    row: Stored
    weights: Weights
    packed: Array
    absmax: Float64
    gradient: bool

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        if self.gradient:
            return Linear4bitBackward(self.row, self.weights).call(subject)
        return Linear4bit(self.row, self.weights, None).call(subject)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare all results with the sums."""
        del strictness  # plain scales: there is no margin
        w = self.weights
        values = codebook_4bit(w.quant_type).values[unpack(self.packed, w.blocksize)]
        scales = np.broadcast_to(self.absmax[:, None], values.shape)
        forms = weight_forms(values, exact_scales(scales), self.row.dtype)
        sums = [(form, self._sums(form)) for form in forms]
        return [judge_sums(sums, None, self.row.dtype, values_of(outputs["out"]))]

    def _sums(self, form: WeightForm) -> Sums:
        row = values_of(self.row)
        total, magnitude = (self._sum(*pair) for pair in ((row, form.value), _sizes(row, form)))
        # All products are counted, also those that are zero.
        terms = np.full(total.shape, float(row.size))
        inputs = np.full(total.shape, np.abs(row).sum())
        return Sums(total, magnitude, np.zeros(total.shape), terms, inputs)

    def _sum(self, row: Float64, blocks: Float64) -> Float64:
        """The product with the weights whose short array holds these numbers."""
        blocksize = self.weights.blocksize
        if self.gradient:
            column = np.broadcast_to(row.reshape(-1, 1), (row.size, blocksize))
            return correlate(column, blocks).reshape(1, -1)[:, : self.weights.cols]
        padded = np.zeros(count_blocks(row.size, blocksize) * blocksize)
        padded[: row.size] = row.reshape(-1)
        by_row: Float64 = correlate(padded.reshape(-1, blocksize), blocks).sum(axis=1)
        return by_row.reshape(1, -1)


def _sizes(row: Float64, form: WeightForm) -> tuple[Float64, Float64]:
    return np.abs(row), np.abs(form.value)
