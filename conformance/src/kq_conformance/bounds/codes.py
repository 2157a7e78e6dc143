"""Which codes a quantizer may choose, and which scales it must."""

from enum import Enum

import numpy as np

from kq_conformance.bounds.acceptance import Bits, Codes, Rule
from kq_conformance.floats import FLOAT32, Array, Float64, store
from kq_conformance.reference import Codebook, encode

__all__ = ["Strictness", "accept_absmax", "accept_codes", "accept_codes_of_interval"]


class Strictness(Enum):
    """How much freedom the suite leaves where a decision hangs on the last bit.

    EXACT is the rule of kq's own formats: codes by the exact ratio, decoding to the bit. MARGIN
    grants a third party the roundings that any float32 implementation of the same formulas commits.
    """

    EXACT = "exact"
    MARGIN = "margin"


_SOURCE = "conformance/README.md, 'Bounds'; docs/FORMAT.md"

ABSMAX = Rule(
    "absmax",
    "absmax = max |x| of the block, bit for bit; NaN (0x7fc00000) if it holds NaN, else +Inf if it"
    " holds an infinity",
    _SOURCE,
    exact=True,
)
CODES_EXACT = Rule(
    "codes, exact",
    "code = order[#{i : x > T_i · absmax}], decided on the exact ratio; ties to the lower code",
    _SOURCE,
    exact=True,
)
CODES_MARGIN = Rule(
    "codes, margin",
    "nearest code of r = x / absmax; both neighbors of a midpoint m if |r - m| <= 3u|m|, u = 2^-24",
    _SOURCE,
)
CODES_OF_INTERVAL = Rule(
    "codes of an interval",
    "nearest code of y / absmax for some y in the allowed interval of the new moment, with absmax"
    " the scale that the backend stored",
    _SOURCE,
)

# A float32 implementation rounds the reciprocal of the scale, its product with x, and the midpoint
# it compares with: three roundings, 3u relative to the midpoint. A division commits one fewer.
_ROUNDINGS_OF_A_RATIO = 3


def accept_absmax(expected: Float64) -> Bits:
    """The scale of a block is a maximum of inputs: nothing is rounded, so nothing is tolerated."""
    return Bits("absmax", store(expected, "float32"), ABSMAX)


def _joined_zeros(lowest: Array, highest: Array, book: Codebook) -> tuple[Array, Array]:
    """Let codes of equal value stand for each other (FP4 has two zeros)."""
    ascending = book.values[book.order]
    first = np.searchsorted(ascending, ascending[lowest], side="left")
    last = np.searchsorted(ascending, ascending[highest], side="right") - 1
    return first, last


def accept_codes(
    quantity: str, x: Float64, absmax: Float64, book: Codebook, strictness: Strictness
) -> Codes:
    """The codes that x / absmax may get.

    Args:
        quantity: name of the tensor, for the report.
        x: float64 [...].
        absmax: float64 [...], the scale of each element.
        book: the codebook.
        strictness: EXACT: one code; MARGIN: both neighbors within 3u|m| of a midpoint m.
    """
    expected = encode(x, absmax, book)
    rank = book.rank[expected]
    if strictness is Strictness.EXACT:
        nowhere = np.full((*x.shape, 2), np.inf)
        return Codes(quantity, book, expected, rank, rank, nowhere, CODES_EXACT)

    usable = (absmax > 0) & np.isfinite(absmax)
    ratio = np.where(usable, x, 0.0) / np.where(usable, absmax, 1.0)
    padded = np.concatenate([[-np.inf], book.thresholds, [np.inf]])
    below, above = padded[rank], padded[rank + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        margin = _ROUNDINGS_OF_A_RATIO * FLOAT32.unit_roundoff
        usage = np.stack(
            [
                (ratio - below) / (margin * np.abs(below)),
                (above - ratio) / (margin * np.abs(above)),
            ],
            axis=-1,
        )
    # Beyond the first and last code, and at the midpoint 0 between FP4's zeros, there is no margin.
    usage = np.where(np.isfinite(usage) & usable[..., None], usage, np.inf)
    lowest = np.where(usage[..., 0] <= 1, rank - 1, rank)
    highest = np.where(usage[..., 1] <= 1, rank + 1, rank)
    lowest, highest = _joined_zeros(lowest, highest, book)
    return Codes(quantity, book, expected, lowest, highest, usage, CODES_MARGIN)


def accept_codes_of_interval(
    quantity: str,
    expected: Array,
    lowest: Float64,
    highest: Float64,
    absmax: Float64,
    book: Codebook,
    strictness: Strictness,
) -> Codes:
    """The codes of a value that is known up to an interval, at the scale that the backend stored.

    Args:
        quantity: name of the tensor.
        expected: codes of the reference's own value, shown in reports.
        lowest: float64, lower ends of the value.
        highest: float64, upper ends of the value.
        absmax: float64, the backend's scale of each element (checked separately).
        book: the codebook.
        strictness: see `accept_codes`; applied at both ends.
    """
    low = accept_codes(quantity, lowest, absmax, book, strictness)
    high = accept_codes(quantity, highest, absmax, book, strictness)
    usage = np.full((*expected.shape, 2), 1.0)
    return Codes(quantity, book, expected, low.lowest, high.highest, usage, CODES_OF_INTERVAL)
