"""Matrices, codes and scales of the int8 operations."""

from collections.abc import Callable

import numpy as np

from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_problems import Int8Weight
from kq_conformance.cases.matrices import MATRICES, anchored_sweep, natural_sweep
from kq_conformance.floats import FORMATS, Array, Stored, store, stored_integers
from kq_conformance.reference import INT8_LARGEST

__all__ = [
    "SWEEPS",
    "THRESHOLD",
    "UNUSUAL",
    "Rows",
    "damaged_weight",
    "everywhere",
    "int8_codes",
    "int8_weight",
    "rows_of",
    "threshold_steps",
    "with_outliers",
]

Rows = Callable[[Draw, str], Stored]

THRESHOLD = 6.0
"""The customary threshold of LLM.int8()."""

_BLOCK = 64  # of what is shared with the block-wise formats: about half of a row


def _ties(draw: Draw, dtype: str) -> Stored:
    """For scales of many sizes: the number nearest to each tie of codes, one below, one above.

    With a scale that is 127 times a power of two, or a power of two, some of them are exact ties.
    """
    chosen = FORMATS[dtype]
    low = max(chosen.emin + 8, -100)
    scales = [1.0, 127.0, 254.0, 2.0**low, 3.0, 100.0, chosen.largest]
    scales += draw.magnitudes(low, 15, 5).tolist()
    ties = (np.arange(-INT8_LARGEST, INT8_LARGEST) + 0.5) / INT8_LARGEST
    rows = []
    for scale in chosen.round(np.array(scales)):
        near = chosen.round(ties * scale)
        values = np.concatenate([near, chosen.step(near, -1), chosen.step(near, +1), [scale]])
        # The largest element stands anywhere in its row, and is of either sign.
        row = np.where(np.abs(values) <= scale, values, 0.0) * draw.signs(1)
        rows.append(np.roll(row, int(draw.integers(row.size, 1)[0])))
    return store(np.array(rows), dtype)


def _small(draw: Draw, dtype: str) -> Stored:
    """Rows whose scale is so small that 127/absmax overflows, or subnormal."""
    chosen = FORMATS[dtype]
    exponents = np.arange(chosen.emin - chosen.precision + 1, chosen.emin + 10)
    rows = draw.bell(exponents.size, 67)
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    return store(np.ldexp(rows, exponents[:, None]), dtype)


def _shared(name: str) -> Rows:
    return lambda draw, dtype: MATRICES[name](draw, dtype, _BLOCK)


UNUSUAL: dict[str, Rows] = {name: _shared(name) for name in MATRICES}
UNUSUAL |= {"ties": _ties, "small": _small}


def _natural(draw: Draw, dtype: str) -> Stored:
    """All bit patterns of a 16-bit type, NaN and Inf included; rows of like magnitudes."""
    whole = natural_sweep(draw, dtype, _BLOCK)
    return Stored(whole.bits.reshape(-1, _BLOCK), dtype)


def _anchored(draw: Draw, dtype: str) -> Stored:
    """All finite bit patterns, in rows that begin with a power of two above all others."""
    whole = anchored_sweep(draw, dtype, _BLOCK)
    return Stored(whole.bits.reshape(-1, _BLOCK), dtype)


SWEEPS: dict[str, Rows] = {"sweep": _natural, "sweep-anchored": _anchored}


def rows_of(rows: int, cols: int) -> Rows:
    """Nearly normal numbers, rows of different size."""

    def make(draw: Draw, dtype: str) -> Stored:
        return store(draw.bell(rows, cols) * draw.magnitudes(-8, 8, rows, 1), dtype)

    return make


def with_outliers(rows: int, cols: int) -> Rows:
    """Numbers below 6 but for few columns, each with an outlier in one row; the first row of zeros.

    One outlier is in the last row and column. Another row of its column holds the largest number of
    that row, below 6: it counts for the scale, though its code is 0.
    """

    def make(draw: Draw, dtype: str) -> Stored:
        values = np.clip(draw.bell(rows, cols), -3, 3) * draw.magnitudes(-2, 0, rows, 1)
        if rows > 1:
            values[0] = 0.0
        if values.size:
            some = zip(draw.integers(rows, 2), draw.integers(cols, 2), strict=True)
            for place in ((rows - 1, cols - 1), *some):
                values[place] = 20 * draw.signs(1)[0] * (1 + draw.uniform(1)[0])
        if values.size and rows > 2:
            values[1, cols - 1] = 5.5
        return store(values, dtype)

    return make


def threshold_steps(threshold: float) -> Rows:
    """Numbers of either sign that are 6, one step below and one above, each in its own column.

    Args:
        threshold: what they are compared with; near 6.
    """

    def make(draw: Draw, dtype: str) -> Stored:
        chosen = FORMATS[dtype]
        near = float(chosen.round(np.array(threshold)))
        steps = [near, *(float(chosen.step(np.array([near]), way)[0]) for way in (-1, 1))]
        values = draw.bell(5, 71) / 4
        for column, value in enumerate([*steps, *(-each for each in steps)]):
            values[column % 5, 11 * column + 4] = value
        return store(values, dtype)

    return make


def everywhere(draw: Draw, dtype: str) -> Stored:
    """Every magnitude is at least 6."""
    return store(draw.signs(5, 67) * draw.magnitudes(3, 9, 5, 67), dtype)


def int8_codes(draw: Draw, *shape: int, largest: int = INT8_LARGEST) -> Stored:
    """Codes of either sign; all that int8 has with `largest` 128, -128 among them."""
    span = 2 * largest + (largest <= INT8_LARGEST)
    return stored_integers(draw.integers(span, *shape) - largest, "int8")


def int8_weight(draw: Draw, rows: int, cols: int, low: int = -6, high: int = 0) -> Int8Weight:
    """Codes of any size, and scales from 2**low to 2**high; one row is of zeros."""
    codes, absmax = int8_codes(draw, rows, cols), draw.magnitudes(low, high, rows)
    if rows > 4:
        codes.bits[rows // 2], absmax[rows // 2] = 0, 0.0
    return Int8Weight(codes, store(absmax, "float32"))


def damaged_weight(weight: Int8Weight, nan_row: int, inf_row: int) -> Int8Weight:
    """A weight of which the quantizer found NaN in one row, and an infinity in another."""
    absmax: Array = weight.scales
    absmax[nan_row], absmax[inf_row] = np.nan, np.inf
    bits = weight.codes.bits.copy()
    bits[[nan_row, inf_row]] = 0
    return Int8Weight(Stored(bits, "int8"), store(absmax, "float32"))
