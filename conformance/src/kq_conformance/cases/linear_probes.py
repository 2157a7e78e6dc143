"""Cases of the linear layer and its gradient that have one answer, and cases of every shape.

Where each product and each partial sum is a float32 number, nothing but the result is rounded, and
no order of the sum, and no form of the weights, makes a difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kq_conformance.bounds import Interval, Judgement, Rule, Strictness
from kq_conformance.cases.case import Case, Demand, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.linear_problems import Linear4bit, Linear4bitBackward
from kq_conformance.cases.several import Several
from kq_conformance.cases.weights import Weights, plain_scales, random_weights
from kq_conformance.floats import FORMATS, Array, Float64, Stored, store, values_of
from kq_conformance.reference import codebook_4bit, count_blocks, pack, weights_4bit
from kq_conformance.subject import Outputs, StoredScales, Subject

__all__ = ["EXACT_SUMS", "probe_cases"]

EXACT_SUMS = Rule(
    "linear, exact sums",
    "x and absmax hold powers of two and few products are not zero: round_dtype(Σ x·code·absmax)",
    "every product and every partial sum is a float32 number, in whatever order and form",
    exact=True,
)
# Rows in one call: one, few, and more than a register tile.
_ROWS = (1, 3, 17)
# `every-n`: N and K beyond all register tiles, K to two blocks and a tail.
_EVERY_N, _EVERY_K = 40, 130
_TOGETHER = 26  # values of K in one case


@dataclass(frozen=True)
class ExactSums:
    """A call whose sums are exact, some rows at a time.

    Attributes:
        whole: the call with all rows.
        rows: how many of them go into one call.
    """

    whole: Linear4bit | Linear4bitBackward
    rows: int

    @property
    def _input(self) -> Stored:
        return self.whole.x if isinstance(self.whole, Linear4bit) else self.whole.grad

    def call(self, subject: Subject) -> Outputs:
        parts = []
        for start in range(0, len(self._input.bits), self.rows):
            some = Stored(self._input.bits[start : start + self.rows], self._input.dtype)
            if isinstance(self.whole, Linear4bit):
                problem: Linear4bit | Linear4bitBackward = replace(self.whole, x=some)
            else:
                problem = replace(self.whole, grad=some)
            parts.append(problem.call(subject)["out"].bits)
        return {"out": Stored(np.concatenate(parts), self._input.dtype)}

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        del strictness  # there is no margin here
        w = self.whole.weights
        weights = weights_4bit(w.packed, w.absmax, w.cols, w.quant_type, w.blocksize)
        weights = weights.T if isinstance(self.whole, Linear4bit) else weights
        exact = FORMATS[self._input.dtype].round(values_of(self._input) @ weights)
        return [Interval("out", exact, exact, exact, EXACT_SUMS).judge(values_of(outputs["out"]))]


@dataclass(frozen=True)
class EveryWidth:
    """A layer of each N from 1, or the gradient through it: the first N rows of one matrix.

    Attributes:
        whole: the call with all rows.
    """

    whole: Linear4bit | Linear4bitBackward

    def call(self, subject: Subject) -> Outputs:
        outputs = {}
        for N in range(1, len(self.whole.weights.packed) + 1):
            w = self.whole.weights
            absmax = Stored(w.scales.absmax.bits[:N], w.scales.absmax.dtype)
            some = replace(w, packed=w.packed[:N], scales=StoredScales(absmax))
            if isinstance(self.whole, Linear4bit):
                part: Linear4bit | Linear4bitBackward = replace(self.whole, weights=some)
            else:
                grad = Stored(self.whole.grad.bits[:, :N], self.whole.grad.dtype)
                part = Linear4bitBackward(grad, some)
            outputs[f"out of n{N}"] = part.call(subject)["out"]
        return outputs

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        whole = self.whole.product(strictness)
        judged = []
        for N, (name, out) in enumerate(outputs.items(), start=1):
            if isinstance(self.whole, Linear4bit):
                part = replace(whole, forms=[form[:, :N] for form in whole.forms])
            else:
                forms = [form[:N] for form in whole.forms]
                part = replace(whole, a=whole.a[:, :N], forms=forms)
            judged.append(replace(part.judge(values_of(out)), quantity=name))
        return judged


def _problem(
    demand: Demand, values: Float64, codes: Array, absmax: Float64
) -> Linear4bit | Linear4bitBackward:
    """The call of `demand.op` on an input, or an incoming gradient, of these values."""
    assert demand.quant_type is not None
    assert demand.blocksize is not None
    packed = pack(codes.astype(np.uint8), codebook_4bit(demand.quant_type).zero)
    cols = codes.shape[1]
    weights = Weights(packed, plain_scales(absmax), cols, demand.quant_type, demand.blocksize)
    stored = store(values, demand.dtype)
    if demand.op == "linear_4bit":
        return Linear4bit(stored, weights, None)
    return Linear4bitBackward(stored, weights)


def _picked(
    draw: Draw, N: int, K: int, demand: Demand, places: Sequence[int]
) -> Linear4bit | Linear4bitBackward:
    """Each row holds one number that is not zero, at one of `places`, and so picks its weights."""
    assert demand.blocksize is not None
    rows, depth = len(places), K if demand.op == "linear_4bit" else N
    # No result is subnormal in float16: the least code that is not zero is 2**-7.6.
    absmax = np.ldexp(1.0, draw.integers(7, N, count_blocks(K, demand.blocksize)) - 3)
    values = np.zeros((rows, depth))
    values[np.arange(rows), places] = np.ldexp(draw.signs(rows), draw.integers(3, rows))
    return _problem(demand, values, draw.integers(16, N, K), absmax)


def _near_ties(
    draw: Draw, rows: int, N: int, K: int, demand: Demand
) -> Linear4bit | Linear4bitBackward:
    """Results ±1 ± half a step ± 2**-20: half of them ties but for what a short sum would lose."""
    assert demand.quant_type is not None
    forward = demand.op == "linear_4bit"
    depth = K if forward else N
    half_step = min(FORMATS[demand.dtype].precision, 11)
    values = np.zeros((rows, depth))
    for row in range(rows):
        one, half = draw.integers(depth // 2, 2)
        values[row, one] = 1.0
        values[row, (one + 1 + half) % (depth // 2)] = 2.0**-half_step
        # 2**-14 is normal in float16, too; the scale of the second half is 2**-6.
        values[row, depth // 2 + int(draw.integers(depth - depth // 2, 1)[0])] = 2.0**-14
    absmax = np.ones((N, 2))
    if forward:
        absmax[:, 1] = 2.0**-6
    else:
        absmax[N // 2 :] = 2.0**-6
    values_of_codes = codebook_4bit(demand.quant_type).values
    ends = np.array([int(np.argmin(values_of_codes)), int(np.argmax(values_of_codes))])
    return _problem(demand, values, ends[draw.integers(2, N, K)], absmax)


def probe_cases(quant_type: str, blocksize: int, dtype: str) -> Iterator[Case]:
    """Cases of one block size: `picked` and `near-ties` in CORE, `every-n` in FULL."""
    for op in ("linear_4bit", "linear_4bit_backward"):
        demand = Demand(op, dtype, quant_type, blocksize)
        if blocksize == 64:
            yield from _usual_cases(demand)
            if quant_type == "nf4" or dtype == "float32":
                yield from _every_width_cases(demand)
        else:
            yield _edges_case(demand, blocksize)


def _prefix(demand: Demand) -> str:
    return f"{demand.op}/{demand.quant_type}/b{demand.blocksize}/{demand.dtype}"


def _usual_cases(demand: Demand) -> Iterator[Case]:
    for rows in _ROWS:

        def pick(draw: Draw, rows: int = rows) -> ExactSums:
            places = range(67 if demand.op == "linear_4bit" else 21)
            return ExactSums(_picked(draw, 21, 67, demand, places), rows)

        def tie(draw: Draw, rows: int = rows) -> ExactSums:
            return ExactSums(_near_ties(draw, 34, 40, 128, demand), rows)

        for name, make in ((f"picked-m{rows}-n21-k67", pick), (f"near-ties-m{rows}", tie)):
            yield Case(f"{_prefix(demand)}/{name}", Profile.CORE, demand, make)


def _edges_case(demand: Demand, blocksize: int) -> Case:
    """Weights at the edges of a block."""
    N, K = 6, blocksize + 3
    edges = (0, 1, blocksize - 1, blocksize, blocksize + 2)
    places = edges if demand.op == "linear_4bit" else range(N)

    def make(draw: Draw) -> ExactSums:
        return ExactSums(_picked(draw, N, K, demand, places), len(places))

    name = f"{_prefix(demand)}/picked-m{len(places)}-n{N}-k{K}"
    return Case(name, Profile.CORE, demand, make)


def _every_width_cases(demand: Demand) -> Iterator[Case]:
    quant_type, blocksize, dtype = demand.quant_type, demand.blocksize, demand.dtype
    assert quant_type is not None
    assert blocksize is not None

    def problem(draw: Draw, M: int, K: int) -> EveryWidth:
        weights = random_weights(draw, _EVERY_N, K, quant_type, blocksize, nested=False)
        if demand.op == "linear_4bit":
            return EveryWidth(Linear4bit(store(draw.bell(M, K), dtype), weights, None))
        return EveryWidth(Linear4bitBackward(store(draw.bell(M, _EVERY_N), dtype), weights))

    for M in (1, 5):
        for first in range(1, _EVERY_K + 1, _TOGETHER):
            depths = range(first, first + _TOGETHER)

            def make(draw: Draw, M: int = M, depths: Sequence[int] = depths) -> Several:
                return Several({f"k{K}": problem(draw, M, K) for K in depths})

            name = f"every-n-m{M}-k{depths[0]}-to-{depths[-1]}"
            yield Case(f"{_prefix(demand)}/{name}", Profile.FULL, demand, make)
