"""How far a 4-bit linear layer, or its gradient, may be from the float64 result.

A matrix product of inner length K computed with float32 accumulation in any order commits, on each
product, at most K roundings (one product, K − 1 sums), one for the weight code · absmax wherever
the scale is applied, and one for the bias: |ŷ − y| <= γ_n Σ|x||w| with n = K + 1 (+ 1) and γ_n =
nu/(1 − nu), u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., equation
3.5). The result is then rounded once to the output type, which is monotone: the ends of the
interval are rounded.

What w is depends on how the kernel holds its weights, and each way is a definite number, so that
the bound stays that of float32 accumulation: see `weight_forms`.
"""

from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds.acceptance import Interval, Judgement, Rule
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.floats import FLOAT32, FORMATS, Float64

__all__ = ["Product", "WeightForm", "weight_forms"]

_SOURCE = "conformance/README.md, 'Bounds'; Higham, ASNA, 2nd ed., eq. 3.5"


@dataclass(frozen=True, eq=False)
class WeightForm:
    """One way to hold a dequantized weight: numbers known up to `radius` (nested scales).

    Attributes:
        name: what the report calls it.
        value: float64 [N, K].
        radius: float64 [N, K].
    """

    name: str
    value: Float64
    radius: Float64


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
    ends = {"float32": exact}
    if dtype != "float32":
        ways = [
            way(end)
            for end in (exact.low, exact.high)
            for way in (rounding, lambda x: rounding(FLOAT32.round(x)))
        ]
        ends[dtype] = Enclosure(np.minimum.reduce(ways), np.maximum.reduce(ways))
        ends[f"codes in {dtype}"] = Enclosure.of(rounding(values)) * scales
    with np.errstate(invalid="ignore"):
        return [
            # Infinite scales have no radius: their ends are the same infinity.
            WeightForm(
                name,
                (each.low + each.high) / 2,
                np.where(each.low == each.high, 0.0, (each.high - each.low) / 2),
            )
            for name, each in ends.items()
        ]


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
        """Judge a result by the form of the weights that fits it best, one form for all elements.

        The report's figures are `statistical`: the error against √n · u Σ|x||w| instead of γ_n, the
        size that random roundings have. It shows a sloppy kernel that is still within the bound.
        """
        judged = []
        for form in self.forms:
            verdict = self._accept(form, worst_case=True).judge(got)
            statistical = self._accept(form, worst_case=False).judge(got).tightness
            judged.append((verdict, statistical))
        verdict, statistical = min(judged, key=lambda each: (each[0].violations, each[0].tightness))
        if np.isfinite(statistical):
            verdict.figures["statistical"] = statistical
        return verdict

    def _accept(self, form: WeightForm, worst_case: bool) -> Interval:
        roundings = self.a.shape[1] + 1 + (self.bias is not None)
        u = FLOAT32.unit_roundoff
        gamma = roundings * u / (1 - roundings * u) if worst_case else np.sqrt(roundings) * u
        with np.errstate(invalid="ignore"):
            total = self.a @ form.value
            magnitude = np.abs(self.a) @ (np.abs(form.value) + form.radius)
            error = gamma * magnitude + np.abs(self.a) @ form.radius
            # Products and sums below the normal range: half a subnormal spacing each.
            error = error + roundings * FLOAT32.tiny / 2
            error = np.where(np.isinf(total), 0.0, error)
            exact = total if self.bias is None else total + self.bias
            ends = self._with_bias(total, error, gamma)
        rule = Rule(
            f"linear, weights as {form.name}",
            f"|error| <= nu/(1-nu) (Σ|x||w| + |b|), n = {roundings}, u = 2^-24; then {self.dtype}",
            _SOURCE,
        )
        return Interval.rounded("out", exact, ends, self.dtype, rule)

    def _with_bias(self, total: Float64, error: Float64, gamma: float) -> tuple[Float64, Float64]:
        """The ends of the interval, before the last rounding, once the bias is added."""
        if self.bias is None:
            return total - error, total + error
        wide = error + gamma * np.abs(self.bias)
        low, high = total + self.bias - wide, total + self.bias + wide
        if self.dtype != "float32":
            # The bias may also be added to a product that was already rounded to the output type.
            to = FORMATS[self.dtype].round
            low = np.minimum(low, to(total - error) + self.bias)
            high = np.maximum(high, to(total + error) + self.bias)
        return low, high
