"""How far a 4-bit linear layer, or its gradient, may be from the float64 result.

Let p be the k products x·w of an element that are not zero (zeros add nothing and round nothing),
ŷ their float32 sum in any order, M the larger one of the sum of the positive and the sum of the
negative p in magnitude, and u = 2⁻²⁴. Then

    |ŷ − y| <= γ_r Σ|p| + (k − 1) u (1 + γ_r)(1 + 2γ_{k−1}) M,  γ_n = nu/(1 − nu).

* A product passes r roundings before it is summed: that of the weight, code · absmax, and its own.
  Where the weight is held in the 16-bit type of the input, the product has at most 22 significant
  bits and r = 0.
* An addition that gives ŝ errs by at most u|ŝ|, so that the sum errs by at most u Σ|ŝ| over its
  k − 1 additions (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., equation 4.3).
  An exact partial sum, of whatever terms in whatever order, is at most M, and its computed value
  differs by at most γ_{k−1} Σ|p| <= 2γ_{k−1} M. With terms of both signs this is half of the usual
  γ_{k−1} Σ|p|; with terms of one sign it is the same but for the second order, and the smaller one
  counts.
* A bias is one more term, of no roundings.
* For 16-bit inputs an addition may err by 2u: matrix units truncate (Fasi, Higham, Mikaitis and
  Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 7:e330, 2021).

The result is then rounded once to the output type, which is monotone: the ends of the interval are
rounded. What w is depends on how the kernel holds its weights, and each way is a definite number,
so that the bound stays that of float32 accumulation: see `weight_forms`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kq_conformance.bounds.acceptance import Interval, Judgement, Rule
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.floats import FLOAT32, FORMATS, Float64

__all__ = ["GroupedProduct", "Product", "Sums", "WeightForm", "judge_sums", "weight_forms"]

_SOURCE = "kq_conformance.bounds.linear; Higham, ASNA, 2nd ed., section 4.2"
_U = FLOAT32.unit_roundoff


@dataclass(frozen=True, eq=False)
class WeightForm:
    """One way to hold a dequantized weight: numbers known up to `radius` (nested scales).

    Attributes:
        name: what the report calls it.
        value: float64 [N, K].
        radius: float64 [N, K].
        roundings: float32 roundings of a product before it is summed, r above.
    """

    name: str
    value: Float64
    radius: Float64
    roundings: int

    @property
    def transposed(self) -> "WeightForm":
        """The same with value and radius [K, N]."""
        return WeightForm(self.name, self.value.T, self.radius.T, self.roundings)

    def __getitem__(self, part: slice | tuple[slice, slice]) -> "WeightForm":
        """Some of the weights."""
        return WeightForm(self.name, self.value[part], self.radius[part], self.roundings)


def weight_forms(values: Float64, scales: Enclosure, dtype: str) -> list[WeightForm]:
    """The weights that a kernel for inputs of type `dtype` may multiply with.

    * "float32": code · absmax, unrounded here; its float32 rounding is counted in γ.
    * `dtype` (16-bit inputs only): the weight rounded to the type of the input, as
      dequantize_4bit gives it, for matrix units that take both factors in 16 bits.
    * "codes in `dtype`" (16-bit inputs only): the codebook value rounded to the type of the input,
      the scale applied in float32 to the sum over the block.

    Args:
        values: float64 [N, K], codebook[code].
        scales: enclosure [N, K] of each element's absmax.
        dtype: type of the input.
    """
    rounding = FORMATS[dtype].round
    exact = Enclosure.of(values) * scales
    ends = {"float32": (exact, 2)}
    if dtype != "float32":
        ways = [
            way(end)
            for end in (exact.low, exact.high)
            for way in (rounding, lambda x: rounding(FLOAT32.round(x)))
        ]
        ends[dtype] = (Enclosure(np.minimum.reduce(ways), np.maximum.reduce(ways)), 0)
        ends[f"codes in {dtype}"] = (Enclosure.of(rounding(values)) * scales, 2)
    with np.errstate(invalid="ignore"):
        return [
            # Infinite scales have no radius: their ends are the same infinity.
            WeightForm(
                name,
                (each.low + each.high) / 2,
                np.where(each.low == each.high, 0.0, (each.high - each.low) / 2),
                roundings,
            )
            for name, (each, roundings) in ends.items()
        ]


class Sums(NamedTuple):
    """What the bound needs to know of each element of a product a @ w; arrays broadcast.

    Attributes:
        total: float64, Σ a·w.
        magnitude: float64, Σ |a||w|.
        spread: float64, Σ |a| · radius.
        terms: products that are not zero.
        inputs: float64, Σ |a|.
    """

    total: Float64
    magnitude: Float64
    spread: Float64
    terms: Float64
    inputs: Float64

    @classmethod
    def of(cls, a: Float64, form: WeightForm) -> "Sums":
        """The sums of a [M, K] and weights [K, N]."""
        size = np.abs(a)
        with np.errstate(invalid="ignore"):
            return cls(
                a @ form.value,
                size @ np.abs(form.value),
                size @ form.radius,
                (a != 0).astype(np.float64)
                @ ((form.value != 0) | (form.radius != 0)).astype(np.float64),
                size.sum(axis=1, keepdims=True),
            )


@dataclass(frozen=True, eq=False)
class Product:
    """The allowed results of a @ w + bias, for each form of the weights.

    Attributes:
        a: float64 [M, K], the input (or the incoming gradient).
        forms: weights [K, N], already transposed to the order of the product.
        bias: float64 [N] or None.
        dtype: type of the result.
    """

    a: Float64
    forms: list[WeightForm]
    bias: Float64 | None
    dtype: str

    def judge(self, got: Float64) -> Judgement:
        """Judge a result [M, N]; see `judge_sums`."""
        sums = [(form, Sums.of(self.a, form)) for form in self.forms]
        return judge_sums(sums, self.bias, self.dtype, got)


@dataclass(frozen=True, eq=False)
class GroupedProduct:
    """The allowed results of products whose rows follow each other.

    Each is a product of its own: the form of its weights may depend on its number of rows.

    Attributes:
        parts: at least one.
    """

    parts: Sequence[Product]

    def judge(self, got: Float64) -> Judgement:
        """Judge a result, the rows of all parts; see `judge_sums`."""
        starts = np.cumsum([0] + [len(part.a) for part in self.parts])
        judged = [
            part.judge(got[start:stop])
            for part, start, stop in zip(self.parts, starts, starts[1:], strict=False)
        ]
        decisive = max(range(len(judged)), key=lambda i: judged[i].tightness)
        verdict = judged[decisive]
        worst = verdict.worst
        if worst is not None:
            row, *rest = worst.place
            worst = worst._replace(place=(row + int(starts[decisive]), *rest))
        return replace(
            verdict,
            violations=sum(each.violations for each in judged),
            elements=sum(each.elements for each in judged),
            worst=worst,
        )


def judge_sums(
    sums: Sequence[tuple[WeightForm, Sums]], bias: Float64 | None, dtype: str, got: Float64
) -> Judgement:
    """Judge a result by the form of the weights that fits it best, one form for all elements.

    The report's figures are `statistical`: the error against √n · u Σ|x||w| instead of its bound,
    the size that random roundings have. It shows a sloppy kernel that is still within the bound.

    Args:
        sums: for each form, what its products sum up to.
        bias: float64 [N] or None.
        dtype: type of the result.
        got: the backend's answer.
    """
    judged = [
        (_accept(form, each, bias, dtype, statistical=False).judge(got), form, each)
        for form, each in sums
    ]
    verdict, form, each = min(judged, key=lambda found: (found[0].violations, found[0].tightness))
    statistical = _accept(form, each, bias, dtype, statistical=True).judge(got).tightness
    if np.isfinite(statistical):
        verdict.figures["statistical"] = statistical
    return verdict


def _accept(
    form: WeightForm, sums: Sums, bias: Float64 | None, dtype: str, *, statistical: bool
) -> Interval:
    estimate = _statistical if statistical else _worst_case
    rule = Rule(
        f"linear, weights as {form.name}",
        "|error| <= g(r,u) Σ|xw| + (1+g(r,u)) min((k-1)v(1+2g(k-1,v)) max(Σ+, Σ-), g(k-1,v) Σ|xw|)"
        f" with g(n,u) = nu/(1-nu), u = 2^-24, r = {form.roundings}, v = u for float32 and 2u for"
        " 16-bit x, k terms that are not zero, the bias one of them; then rounded to the type of x",
        _SOURCE,
    )
    with np.errstate(invalid="ignore"):
        exact = sums.total if bias is None else sums.total + bias
        error = estimate(form, sums, bias, dtype)
        low, high = exact - error, exact + error
        if bias is not None and dtype != "float32":
            # The bias may also be added to a product that was already rounded to the output type.
            to, error = FORMATS[dtype].round, estimate(form, sums, None, dtype)
            ends = [Enclosure.of(to(sums.total + way * error) + bias).rounded() for way in (-1, 1)]
            low, high = np.minimum(low, ends[0].low), np.maximum(high, ends[1].high)
    return Interval.rounded("out", exact, (low, high), dtype, rule)


def _gamma(n: Float64 | int, u: float) -> Float64:
    return np.asarray(n * u / (1 - n * u))


def _worst_case(form: WeightForm, sums: Sums, bias: Float64 | None, dtype: str) -> Float64:
    """The bound of the module's docstring."""
    added, exact = (0.0, sums.total) if bias is None else (np.abs(bias), sums.total + bias)
    terms = sums.terms + (added != 0)
    additions = np.maximum(terms - 1, 0)
    unit = _U if dtype == "float32" else 2 * _U
    magnitude = sums.magnitude + sums.spread + added
    largest = (sums.magnitude + added + np.abs(exact)) / 2 + sums.spread
    summing = np.minimum(
        additions * unit * (1 + 2 * _gamma(additions, unit)) * largest,
        _gamma(additions, unit) * magnitude,
    )
    multiplying = _gamma(form.roundings, _U) * (sums.magnitude + sums.spread)
    # Weights and products below the normal range: half a subnormal spacing each.
    underflow = FLOAT32.tiny / 2 * (sums.terms + sums.inputs)
    error = multiplying + summing * (1 + _gamma(form.roundings, _U)) + sums.spread + underflow
    return np.where(np.isinf(exact), 0.0, error)


def _statistical(form: WeightForm, sums: Sums, bias: Float64 | None, dtype: str) -> Float64:
    """√n · u Σ|x||w|, n all roundings that an element passes."""
    del dtype
    added, exact = (0.0, sums.total) if bias is None else (np.abs(bias), sums.total + bias)
    error = np.sqrt(sums.terms + form.roundings) * _U * (sums.magnitude + added) + sums.spread
    return np.where(np.isinf(exact), 0.0, error)
