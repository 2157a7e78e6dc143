"""Interval arithmetic with float32 roundings: the tool behind the derived bounds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kq_conformance.floats import FLOAT32, Float64

__all__ = ["Enclosure"]

# The interval ends are themselves computed in float64, with relative errors of a few 2**-53.
# Widening u = 2**-24 by the factor 1 + 2**-20 covers thousands of those, and loosens no bound
# visibly.
_U = FLOAT32.unit_roundoff * (1 + 2.0**-20)
# From here on the nearest float32 is an infinity: the largest number and half a step.
_OVERFLOW = FLOAT32.largest + 2.0 ** (127 - 24)


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Arrays of intervals [low, high] that hold the result of every allowed order of float32 steps.

    Operations are exact interval arithmetic; a float32 rounding is added explicitly by `rounded`.
    NaN in either end means that the result is NaN.
    """

    low: Float64
    high: Float64

    @classmethod
    def of(cls, value: Float64) -> "Enclosure":
        """Numbers that are known exactly."""
        return cls(value, value)

    def rounded(self, times: int = 1) -> "Enclosure":
        """Widen by `times` float32 roundings: u relative, half a subnormal spacing absolute.

        Rounding is monotone and leaves zero alone, so that an interval on one side of zero stays
        there; what lies beyond the largest number becomes an infinity.
        """
        slack = FLOAT32.tiny / 2

        def margin(end: Float64) -> Float64:
            return np.where(np.isinf(end), 0.0, times * (_U * np.abs(end) + slack))

        low, high = self.low - margin(self.low), self.high + margin(self.high)
        low = np.where(self.low >= 0, np.maximum(low, 0.0), low)
        high = np.where(self.high <= 0, np.minimum(high, 0.0), high)
        return Enclosure(_overflowed(low), _overflowed(high))

    def __neg__(self) -> "Enclosure":
        return Enclosure(-self.high, -self.low)

    def __add__(self, other: "Enclosure") -> "Enclosure":
        with np.errstate(invalid="ignore"):
            return Enclosure(self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Enclosure") -> "Enclosure":
        return self + (-other)

    def __mul__(self, other: "Enclosure") -> "Enclosure":
        with np.errstate(invalid="ignore"):
            ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
            return Enclosure(np.minimum.reduce(ends), np.maximum.reduce(ends))

    def plus(self, other: "Enclosure") -> "Enclosure":
        """The sum of float32 numbers: one rounding, and none where a term is zero."""
        total = self + other
        rounded = total.rounded()
        exact = self._zero | other._zero
        return Enclosure(
            np.where(exact, total.low, rounded.low), np.where(exact, total.high, rounded.high)
        )

    @property
    def _zero(self) -> NDArray[np.bool_]:
        zero: NDArray[np.bool_] = (self.low == 0) & (self.high == 0)
        return zero

    def scaled(self, factor: float) -> "Enclosure":
        """Multiply by a number."""
        return self * Enclosure.of(np.full(self.low.shape, factor))

    def by_constant(self, factor: float) -> "Enclosure":
        """The product of float32 numbers with a factor that is rounded to float32, too.

        Two roundings; none if the factor is 0 or 1.
        """
        product = self.scaled(factor)
        return product if factor in (0, 1) else product.rounded(2)

    def over(self, positive: "Enclosure") -> "Enclosure":
        """Divide by intervals that lie above zero."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ends = [a / b for a in (self.low, self.high) for b in (positive.low, positive.high)]
            return Enclosure(np.minimum.reduce(ends), np.maximum.reduce(ends))

    def root(self) -> "Enclosure":
        """Square roots of intervals whose true values are not negative."""
        with np.errstate(invalid="ignore"):
            return Enclosure(np.sqrt(np.maximum(self.low, 0.0)), np.sqrt(self.high))

    def squared(self) -> "Enclosure":
        """Squares; an interval around zero gives one that starts at zero."""
        with np.errstate(invalid="ignore"):
            low, high = self.low**2, self.high**2
            around = (self.low <= 0) & (self.high >= 0)
            return Enclosure(np.where(around, 0.0, np.minimum(low, high)), np.maximum(low, high))

    def maximum(self, other: "Enclosure") -> "Enclosure":
        """The larger of two numbers; NaN if one is."""
        return Enclosure(np.maximum(self.low, other.low), np.maximum(self.high, other.high))

    def minimum(self, other: "Enclosure") -> "Enclosure":
        """The smaller of two numbers; NaN if one is."""
        return Enclosure(np.minimum(self.low, other.low), np.minimum(self.high, other.high))

    def sign(self) -> "Enclosure":
        """−1, 0 or 1; all of them, and what is between, where zero lies inside."""
        return Enclosure(np.sign(self.low), np.sign(self.high))

    @property
    def magnitude(self) -> "Enclosure":
        """Absolute values."""
        ends = np.abs(self.low), np.abs(self.high)
        with np.errstate(invalid="ignore"):
            around = (self.low <= 0) & (self.high >= 0)
        return Enclosure(np.where(around, 0.0, np.minimum(*ends)), np.maximum(*ends))

    def norm(self) -> "Enclosure":
        """The Euclidean norm of all elements, one number, rounded to float32.

        The squares of float32 numbers are exact in float64, and so large or small that they leave
        float32; the sum is of positive numbers: n float64 roundings, of theirs and of ours here.
        """
        ends = (np.sqrt(np.sum(end**2)) for end in (self.magnitude.low, self.magnitude.high))
        low, high = (np.atleast_1d(end) for end in ends)
        margin = 2 * (self.low.size + 2) * 2.0**-53
        return Enclosure(low * (1 - margin), high * (1 + margin)).rounded()


def _overflowed(end: Float64) -> Float64:
    return np.where(np.abs(end) >= _OVERFLOW, np.copysign(np.inf, end), end)
