"""What row-wise int8 quantization and its products may give.

u = 2⁻²⁴, γ_n = nu/(1 − nu), t the smallest subnormal float32 number.

*Codes.* The format computes rint(x · i) with i = 127/absmax, both rounded to float32. For the ratio
r = 127 x/absmax it therefore rounds to an integer some number within m of r, m = γ_e |r|, with e
the roundings that happen: that of i, unless 127/absmax is a float32 number (as for powers of two),
and that of the product, unless i and r both are. Any other form of two float32 operations errs by
e <= 2, which MARGIN grants always. Rounding is monotone: the code is between rint(r − m) and
rint(r + m), one code unless a tie lies between, and an exact tie has the even code where e = 0.
Scales below 2⁻¹²¹ are scaled by a power of two before; i is then a normal number, and nothing
changes.

*Decoded values.* code · absmax/127 passes two float32 roundings, in either order; what the quotient
loses below the normal range, t/2, is multiplied by the code.

*Products.* An exact sum C of codes is converted to float32, multiplied by both scales and by 127⁻²,
a rounded constant: five roundings, in any order. An outlier's product x · code · absmax/127 passes
three: the quotient, a product with it, and the other product. Scaled sum, k outlier products that
are not zero, and a bias are terms of one float32 sum, whose error `kq_conformance.bounds.linear`
derives: with p these terms, n their number, and M the larger one of the sums of the positive and
of the negative p in magnitude,

    |error| <= Σ γ_r |p| + (1 + γ_5) min((n − 1) u (1 + 2γ_{n−1}) M', γ_{n−1} Σ|p|),

M' = M + Σ γ_r |p|. Below the normal range each product also loses t/2, times what it is multiplied
with later.

A code that float32 does not decide widens the sum C by the weight's code: the ends of C are the
sums with the lower or the higher codes, whichever is the smaller, or larger, for the sign of the
weight. `undecided` in the report counts such codes.

All is rounded once to the type of the result, which is monotone, too.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kq_conformance.bounds.acceptance import Bits, Interval, Judgement, Rule, Unrounded
from kq_conformance.bounds.codes import Strictness
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.linear import WeightForm, weight_forms
from kq_conformance.floats import FLOAT32, Array, Float64, store, stored_integers
from kq_conformance.reference import (
    INT8_LARGEST,
    int8_dequantize,
    int8_matmul,
    int8_quantize,
    int8_ratios,
    int8_scales,
)

__all__ = [
    "Int8Product",
    "Quantized",
    "accept_int8_absmax",
    "accept_int8_decoded",
    "accept_int8_outliers",
    "accept_int8_sums",
    "int8_weight_forms",
]

_SOURCE = "kq_conformance.bounds.int8"
_U, _TINY = FLOAT32.unit_roundoff, FLOAT32.tiny

ABSMAX = Rule(
    "int8 absmax",
    "absmax = max |x| of the row but for outliers, bit for bit; NaN (0x7fc00000) if it holds NaN",
    _SOURCE,
    exact=True,
)
OUTLIERS = Rule("int8 outliers", "outliers[j] = any |x[i, j]| >= threshold", _SOURCE, exact=True)
CODES = Rule(
    "int8 codes",
    "rint of some number within g(e) |r| of r = 127 x/absmax, g(e) = eu/(1-eu), u = 2^-24, e <= 2"
    " roundings; 0 in columns with outliers and in rows without a finite scale",
    _SOURCE,
)
DECODED = Rule(
    "int8 decode",
    "code · absmax/127 through two float32 roundings, then rounded to its type",
    _SOURCE,
)
SUMS = Rule("int8 sums", "the sum of the products of codes, an integer", _SOURCE, exact=True)
PRODUCT = Rule(
    "int8 product",
    "|error| <= Σ g(r)|p| + (1+g(5)) min((n-1)u(1+2g(n-1)) max(Σ+, Σ-), g(n-1) Σ|p|), n terms p:"
    " the scaled sum, r = 5; outliers' products, r = 3; a bias, r = 0; undecided codes widen the"
    " sum by their weights; then rounded to its type",
    _SOURCE,
)


def _gamma(n: Float64 | int) -> Float64:
    return np.asarray(n * _U / (1 - n * _U))


class _Integers:
    """The integers as what numbers are rounded to."""

    def preimage(self, x: Array) -> tuple[Float64, Float64]:
        return x - 0.5, x + 0.5


@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix by rows, and the codes that it may have.

    Attributes:
        absmax: float64 [R].
        outliers: bool [C].
        ratios: float64 [R, C], what is rounded to codes; 0 where the code has to be.
        margin: float64 [R, C], how far off float32 may be.
    """

    absmax: Float64
    outliers: Array
    ratios: Float64
    margin: Float64

    @classmethod
    def of(cls, x: Float64, threshold: float, strictness: Strictness) -> "Quantized":
        """Quantize x [R, C]."""
        rows = int8_quantize(x, threshold)
        ratios = np.where(rows.outliers, 0.0, int8_ratios(x, rows.absmax))
        roundings = _roundings(rows.absmax, ratios) if strictness is Strictness.EXACT else 2
        return cls(rows.absmax, rows.outliers, ratios, _gamma(roundings) * np.abs(ratios))

    @property
    def lowest(self) -> Float64:
        """The lowest allowed codes."""
        return np.rint(self.ratios - self.margin)

    @property
    def highest(self) -> Float64:
        """The highest allowed codes."""
        return np.rint(self.ratios + self.margin)

    @property
    def undecided(self) -> float:
        """How many codes float32 does not decide."""
        return float(np.count_nonzero(self.lowest != self.highest))

    def judge(self, codes: Float64) -> Judgement:
        """Judge codes [R, C]."""
        before = Unrounded(
            self.ratios, self.ratios - self.margin, self.ratios + self.margin, _Integers()
        )
        accepted = Interval(
            "codes", np.rint(self.ratios), self.lowest, self.highest, CODES, unrounded=before
        )
        judged = accepted.judge(codes)
        judged.figures["undecided"] = self.undecided
        return judged


def _roundings(absmax: Float64, ratios: Float64) -> Float64:
    """How many of the two operations of the format round: [R, C]."""
    usable = (absmax > 0) & np.isfinite(absmax)
    # A power of two moves neither quotient out of what float32 numbers can be multiplied to.
    significand, _ = np.frexp(np.where(usable, absmax, 1.0))
    inverse = INT8_LARGEST / significand
    inexact = (FLOAT32.round(inverse) != inverse)[:, None]
    return np.where(inexact, 2.0, FLOAT32.round(ratios) != ratios)


def accept_int8_absmax(quantized: Quantized) -> Bits:
    """The scale is a maximum of inputs: nothing is rounded."""
    return Bits("absmax", store(quantized.absmax, "float32"), ABSMAX)


def accept_int8_outliers(quantized: Quantized) -> Bits:
    """Whether there is an outlier is a comparison: nothing is rounded."""
    return Bits("outliers", stored_integers(quantized.outliers, "bool"), OUTLIERS)


def accept_int8_decoded(codes: Array, absmax: Float64, dtype: str) -> Interval:
    """What decoding codes [R, C] may give."""
    exact = int8_dequantize(codes, absmax)
    ways = (_weights(codes, absmax).rounded(), Enclosure.of(exact).rounded(2))
    ends = (
        np.minimum.reduce([way.low for way in ways]),
        np.maximum.reduce([way.high for way in ways]),
    )
    return Interval.rounded("out", exact, ends, dtype, DECODED)


def _weights(codes: Array, absmax: Float64) -> Enclosure:
    """Codes [R, C] · fl(absmax/127), before the rounding of the product."""
    scale = Enclosure.of(absmax / INT8_LARGEST).rounded()
    return Enclosure.of(codes.astype(np.float64)) * Enclosure(
        scale.low[:, None], scale.high[:, None]
    )


def int8_weight_forms(codes: Array, absmax: Float64, dtype: str) -> list[WeightForm]:
    """The weights [N, K] that a gradient may be multiplied with; see `weight_forms`.

    The scale of a code is absmax/127, rounded to float32 or not.
    """
    scale = Enclosure.of(absmax / INT8_LARGEST).rounded()
    spread = (np.broadcast_to(end[:, None], codes.shape) for end in (scale.low, scale.high))
    return weight_forms(codes.astype(np.float64), Enclosure(*spread), dtype)


def accept_int8_sums(a: Array, b: Array) -> Bits:
    """The only answer of a [M, K] bᵀ, b [N, K]."""
    return Bits("out", stored_integers(int8_matmul(a, b), "int32"), SUMS)


class _Terms(NamedTuple):
    """What is added up; arrays [M, N], or that broadcast.

    Attributes:
        total: Σ p.
        magnitude: Σ |p|.
        terms: number of those that are not zero.
        multiplied: Σ γ_r |p|.
        lost: what products lose below the normal range.
    """

    total: Float64
    magnitude: Float64
    terms: Float64
    multiplied: Float64
    lost: Float64

    def __add__(self, other: "_Terms") -> "_Terms":  # type: ignore[override]
        with np.errstate(invalid="ignore"):
            return _Terms(*(mine + yours for mine, yours in zip(self, other, strict=True)))

    @property
    def error(self) -> Float64:
        """The bound of the module's docstring."""
        additions = np.maximum(self.terms - 1, 0)
        largest = (self.magnitude + np.abs(self.total)) / 2 + self.multiplied
        summing = np.minimum(
            additions * _U * (1 + 2 * _gamma(additions)) * largest,
            _gamma(additions) * self.magnitude,
        )
        error = self.multiplied + (1 + _gamma(_SCALED)) * summing + self.lost
        return np.where(np.isinf(self.total), 0.0, error)


_SCALED, _KEPT = 5, 3  # roundings of a scaled sum, and of an outlier's product


def _scaled(sums: Float64, row_absmax: Float64, col_absmax: Float64) -> _Terms:
    """Sums of codes times their scales."""
    with np.errstate(invalid="ignore"):
        total = sums * int8_scales(row_absmax, col_absmax)
        size = np.abs(total)
        # Either scale may be multiplied by 127⁻² first, and each of three products lose t/2.
        later = np.abs(sums) * (1 + row_absmax[:, None] + col_absmax)
        return _Terms(
            total, size, 1.0 * (size != 0), _gamma(_SCALED) * size, _TINY / 2 * (1 + later)
        )


def _kept(x: Float64, codes: Array, absmax: Float64) -> _Terms:
    """The columns [M, J] of x with outliers, times those [N, J] of the weight."""
    weights = int8_dequantize(codes, absmax)
    size = np.abs(x)
    with np.errstate(invalid="ignore"):
        magnitude = size @ np.abs(weights).T
        count = (x != 0).astype(np.float64) @ (weights != 0).astype(np.float64).T
        # The quotient loses t/2, times x and a code, and so does each of both products, the inner
        # one times x or times the scale.
        inputs = size.sum(axis=1, keepdims=True)
        lost = _TINY / 2 * ((INT8_LARGEST + 1) * inputs + count * (1 + absmax))
        return _Terms(x @ weights.T, magnitude, count, _gamma(_KEPT) * magnitude, lost)


@dataclass(frozen=True, eq=False)
class Int8Product:
    """The allowed results of scaled sums of codes.

    Attributes:
        low: float64 [M, N], the smallest allowed sums.
        exact: float64 [M, N], the sums.
        high: float64 [M, N], the largest allowed sums.
        row_absmax: float64 [M].
        col_absmax: float64 [N].
        kept: what the columns with outliers add, or None.
        bias: float64 [N] or None.
        dtype: type of the result.
    """

    low: Float64
    exact: Float64
    high: Float64
    row_absmax: Float64
    col_absmax: Float64
    kept: _Terms | None
    bias: Float64 | None
    dtype: str

    @classmethod
    def of_sums(
        cls,
        sums: Float64,
        row_absmax: Float64,
        col_absmax: Float64,
        bias: Float64 | None,
        dtype: str,
    ) -> "Int8Product":
        """Sums [M, N] that are known."""
        return cls(sums, sums, sums, row_absmax, col_absmax, None, bias, dtype)

    @classmethod
    def of_rows(
        cls,
        x: Float64,
        quantized: Quantized,
        codes: Array,
        absmax: Float64,
        bias: Float64 | None,
        dtype: str,
    ) -> "Int8Product":
        """X [M, K], quantized, times a weight with codes [N, K] and absmax [N]."""
        up, down = np.maximum(codes, 0).T, np.minimum(codes, 0).T
        low, high = quantized.lowest, quantized.highest
        at, kept = quantized.outliers, None
        if at.any():
            kept = _kept(x[:, at], codes[:, at], absmax)
        return cls(
            low @ up + high @ down,
            np.rint(quantized.ratios) @ (up + down),
            high @ up + low @ down,
            quantized.absmax,
            absmax,
            kept,
            bias,
            dtype,
        )

    def judge(self, got: Float64) -> Judgement:
        """Judge a result [M, N]."""
        low, exact, high = (self._terms(sums) for sums in (self.low, self.exact, self.high))
        with np.errstate(invalid="ignore"):
            ends = low.total - low.error, high.total + high.error
        return Interval.rounded("out", exact.total, ends, self.dtype, PRODUCT).judge(got)

    def _terms(self, sums: Float64) -> _Terms:
        terms = _scaled(sums, self.row_absmax, self.col_absmax)
        if self.kept is not None:
            terms = terms + self.kept
        if self.bias is not None:
            size = np.broadcast_to(np.abs(self.bias), terms.total.shape)
            zero = np.zeros(size.shape)
            terms = terms + _Terms(self.bias + zero, size, 1.0 * (size != 0), zero, zero)
        return terms
