"""What a backend may answer, and how an answer is judged against it."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from kq_conformance.floats import FORMATS, Array, Float64, Stored, values_of
from kq_conformance.reference import Codebook

__all__ = ["Bits", "Codes", "Interval", "Judgement", "Rule", "Unrounded", "Worst"]


class Rule(NamedTuple):
    """The statement that an acceptance rests on.

    Attributes:
        name: short name for tables.
        statement: the bound as a formula.
        source: where it is derived.
        exact: nothing but one answer is allowed, so that the tightness is 0 or infinite.
    """

    name: str
    statement: str
    source: str
    exact: bool = False


class Worst(NamedTuple):
    """The element of a result that came nearest to its bound, or farthest beyond it.

    Attributes:
        place: its index.
        got: the backend's answer.
        expected: the reference's answer.
        lowest: smallest allowed answer.
        highest: largest allowed answer.
        note: what the numbers do not show.
    """

    place: tuple[int, ...]
    got: float
    expected: float
    lowest: float
    highest: float
    note: str = ""


@dataclass(frozen=True)
class Judgement:
    """The verdict on one result tensor.

    Attributes:
        quantity: name of the tensor, such as "absmax" or "params[1]".
        rule: what was applied.
        violations: elements outside of what is allowed.
        elements: elements judged.
        tightness: worst error ÷ allowed error, over all elements; at most 1 in a pass, infinite
            where nothing but the exact answer is allowed and another one came.
        worst: that element; None for an empty tensor.
        figures: further numbers worth reporting, by name.
    """

    quantity: str
    rule: Rule
    violations: int
    elements: int
    tightness: float
    worst: Worst | None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True if no element violates the rule."""
        return self.violations == 0


def _judge(
    quantity: str,
    rule: Rule,
    usage: Float64,
    shown: tuple[Array, Array, Array, Array],
    figures: dict[str, float],
) -> Judgement:
    """Turn the used share of each element's allowance (over 1: violation) into a judgement."""
    if usage.size == 0:
        return Judgement(quantity, rule, 0, 0, 0.0, None, figures)
    place = np.unravel_index(int(np.argmax(usage)), usage.shape)
    got, expected, lowest, highest = (float(each[place]) for each in shown)
    worst = Worst(tuple(int(i) for i in place), got, expected, lowest, highest)
    violations = int(np.count_nonzero(usage > 1))
    return Judgement(quantity, rule, violations, usage.size, float(usage[place]), worst, figures)


@dataclass(frozen=True, eq=False)
class Bits:
    """Each element must have exactly the expected bit pattern.

    Attributes:
        quantity: name of the tensor.
        expected: the reference's answer.
        rule: why nothing else is allowed.
    """

    quantity: str
    expected: Stored
    rule: Rule

    def judge(self, got: Stored) -> Judgement:
        """Compare a backend's answer of the same shape and type."""
        usage = np.where(got.bits == self.expected.bits, 0.0, np.inf)
        expected = values_of(self.expected)
        shown = (values_of(got), expected, expected, expected)
        judged = _judge(self.quantity, self.rule, usage, shown, {})
        if judged.passed or judged.worst is None:
            return judged
        # NaN has many bit patterns.
        digits, place = 2 * got.bits.itemsize, judged.worst.place
        patterns = [f"0x{each.bits[place]:0{digits}x}" for each in (got, self.expected)]
        note = f"got the bits {patterns[0]}, expected {patterns[1]}"
        return replace(judged, worst=judged.worst._replace(note=note))


class Grid(Protocol):
    """What numbers are rounded to: a `FloatFormat`, or the integers."""

    def preimage(self, x: Array) -> tuple[Float64, Float64]:
        """Ends of the interval of numbers that round to each element of x."""


class Unrounded(NamedTuple):
    """The expected value and the ends of an interval before their last rounding, and to what."""

    exact: Float64
    low: Float64
    high: Float64
    to: Grid


@dataclass(frozen=True, eq=False)
class Interval:
    """Each element must lie in [lowest, highest]; where NaN is expected it must be NaN.

    Attributes:
        quantity: name of the tensor.
        expected: float64, the reference's answer.
        lowest: float64, smallest allowed value.
        highest: float64, largest allowed value.
        rule: the derivation.
        signed_zero: also compare the sign of zeros.
        unrounded: where the three arrays were rounded to the type of the result last, what they
            were before; the tightness is then that of the least error before rounding that explains
            the answer, instead of 0 or 1.
    """

    quantity: str
    expected: Float64
    lowest: Float64
    highest: Float64
    rule: Rule
    signed_zero: bool = False
    unrounded: Unrounded | None = None

    @classmethod
    def rounded(
        cls, quantity: str, exact: Float64, ends: tuple[Float64, Float64], dtype: str, rule: Rule
    ) -> "Interval":
        """An interval of results that are rounded once more, from float32 to `dtype`.

        Rounding is monotone, so that the rounded ends enclose the rounded results. To float32
        nothing is rounded: the ends have counted all its roundings.
        """
        if dtype == "float32":
            return cls(quantity, exact, *ends, rule)
        to = FORMATS[dtype]
        expected, low, high = (to.round(each) for each in (exact, *ends))
        return cls(quantity, expected, low, high, rule, unrounded=Unrounded(exact, *ends, to))

    def judge(self, got: Float64) -> Judgement:
        """Compare a backend's answer of the same shape."""
        inside = (self.lowest <= got) & (got <= self.highest)
        inside = np.where(np.isnan(self.expected), np.isnan(got), inside)
        if self.signed_zero:
            inside &= (got != 0) | (np.signbit(got) == np.signbit(self.expected))
        used = self._used(got)
        # No quotient where nothing is allowed (0/0) or infinities meet: exact if inside.
        within = np.where(np.isfinite(used), np.minimum(used, 1.0), 0.0)
        beyond = np.where(np.isfinite(used) & (used > 1), used, np.inf)
        usage = np.where(inside, within, beyond)
        return _judge(
            self.quantity, self.rule, usage, (got, self.expected, self.lowest, self.highest), {}
        )

    def _used(self, got: Float64) -> Float64:
        """Error ÷ allowed error, before the last rounding if there was one; NaN where undefined."""
        exact, low, high = self.expected, self.lowest, self.highest
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.unrounded is not None:
                exact, low, high, to = self.unrounded
                got = np.clip(exact, *to.preimage(got))
            room = np.where(got > exact, high, low) - exact
            used: Float64 = np.abs(got - exact) / np.abs(room)
        return used


@dataclass(frozen=True, eq=False)
class Codes:
    """Each code must lie between two codes, in the ascending order of the codebook.

    Attributes:
        quantity: name of the tensor.
        book: the codebook.
        expected: codes by the exact rule.
        lowest: lowest allowed rank (position in `book.order`).
        highest: highest allowed rank.
        usage: float64 [..., 2], error ÷ allowed error of choosing the rank below or above the
            expected one: the distance of the ratio from that midpoint in units of the margin.
        rule: the derivation.
    """

    quantity: str
    book: Codebook
    expected: Array
    lowest: Array
    highest: Array
    usage: Float64
    rule: Rule

    def judge(self, got: Array) -> Judgement:
        """Compare a backend's codes of the same shape."""
        if got.size and int(got.max()) >= len(self.book.values):
            raise ValueError(f"{self.quantity} holds the code {got.max()}, beyond the codebook")
        rank, expected = self.book.rank[got], self.book.rank[self.expected]
        outside = (rank < self.lowest) | (rank > self.highest)
        moved = np.where(rank < expected, self.usage[..., 0], self.usage[..., 1])
        within = np.where(rank == expected, 0.0, np.minimum(moved, 1.0))
        beyond = np.where((np.abs(rank - expected) == 1) & (moved > 1), moved, np.inf)
        usage = np.where(outside, beyond, within)
        ambiguous = self.lowest != self.highest
        figures = {
            "ambiguous": float(np.count_nonzero(ambiguous)),
            "differing": float(np.count_nonzero(rank != expected)),
        }
        shown = (
            got,
            self.expected,
            self.book.order[self.lowest],
            self.book.order[self.highest],
        )
        return _judge(self.quantity, self.rule, usage, shown, figures)
