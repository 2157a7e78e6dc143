"""Cases of the linear layers of many experts that have one answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import Interval, Judgement, Strictness
from kq_conformance.cases.case import Case, Demand, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.grouped_problems import (
    Experts,
    GroupedLinear4bit,
    GroupedLinear4bitBackward,
)
from kq_conformance.cases.linear_probes import EXACT_SUMS
from kq_conformance.cases.weights import Weights, plain_scales
from kq_conformance.floats import FORMATS, store, values_of
from kq_conformance.reference import (
    codebook_4bit,
    linear_grouped,
    linear_grouped_backward,
    pack,
    weights_4bit,
)
from kq_conformance.subject import Outputs, Subject

__all__ = ["picked_cases"]

_N, _K, _BLOCKSIZE = 21, 67, 64
# One row, few rows, and all places of the sum: what a kernel may treat apart.
_COUNTS = (1, 0, 4, _K, 3)


@dataclass(frozen=True)
class GroupedExactSums:
    """A call whose sums are exact."""

    whole: GroupedLinear4bit | GroupedLinear4bitBackward

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        return self.whole.call(subject)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        del strictness  # there is no margin here
        counts, w = self.whole.experts.counts, self.whole.experts.weights
        rows = weights_4bit(w.packed, w.absmax, w.cols, w.quant_type, w.blocksize)
        weights = rows.reshape(len(counts), -1, w.cols)
        if isinstance(self.whole, GroupedLinear4bit):
            exact = linear_grouped(values_of(self.whole.x), weights, counts)
        else:
            exact = linear_grouped_backward(values_of(self.whole.grad), weights, counts)
        got = outputs["out"]
        rounded = FORMATS[got.dtype].round(exact)
        return [Interval("out", rounded, rounded, rounded, EXACT_SUMS).judge(values_of(got))]


def picked_cases(quant_type: str, dtype: str) -> Iterator[Case]:
    """Each row holds one number that is not zero, and so picks weights of its expert."""
    for op in ("linear_4bit_grouped", "linear_4bit_grouped_backward"):
        demand = Demand(op, dtype, quant_type, _BLOCKSIZE)

        def make(draw: Draw, demand: Demand = demand) -> GroupedExactSums:
            return GroupedExactSums(_picked(draw, demand))

        name = f"{op}/{quant_type}/b{_BLOCKSIZE}/{dtype}/picked-n{_N}-k{_K}"
        yield Case(name, Profile.CORE, demand, make)


def _picked(draw: Draw, demand: Demand) -> GroupedLinear4bit | GroupedLinear4bitBackward:
    assert demand.quant_type is not None
    forward = demand.op == "linear_4bit_grouped"
    T, E, depth = sum(_COUNTS), len(_COUNTS), _K if forward else _N
    # As for one weight: no result is subnormal in float16.
    absmax = np.ldexp(1.0, draw.integers(7, E * _N, 2) - 3)
    codes = draw.integers(16, E * _N, _K).astype(np.uint8)
    packed = pack(codes, codebook_4bit(demand.quant_type).zero)
    weights = Weights(packed, plain_scales(absmax), _K, demand.quant_type, _BLOCKSIZE)
    values = np.zeros((T, depth))
    values[np.arange(T), np.arange(T) % depth] = np.ldexp(draw.signs(T), draw.integers(3, T))
    stored, experts = store(values, demand.dtype), Experts(weights, _COUNTS)
    if forward:
        return GroupedLinear4bit(stored, experts, None)
    return GroupedLinear4bitBackward(stored, experts)
