"""Blocks along a row, their scale, and the nearest code: what all block-wise formats share."""

from bisect import bisect_left
from fractions import Fraction

import numpy as np

from kq_conformance.floats import Array, Float64
from kq_conformance.reference.codebooks import Codebook

__all__ = ["block_absmax", "count_blocks", "decode", "encode", "spread"]

# Two float64 operations (quotient here, midpoint in the codebook) err by at most 2**-52 together;
# an element whose quotient lies within this distance of a midpoint is decided in rational
# arithmetic.
_DOUBT = 2.0**-50


def count_blocks(cols: int, blocksize: int) -> int:
    """Blocks in a row of `cols` elements: ceil(cols / blocksize); the last may be short."""
    return -(-cols // blocksize)


def spread(per_block: Array, cols: int, blocksize: int) -> Array:
    """Repeat a number per block [R, blocks] for each element of the block: [R, cols]."""
    return np.repeat(per_block, blocksize, axis=1)[:, :cols]


def block_absmax(x: Float64, blocksize: int) -> Float64:
    """absmax[r, b] = max |x| over block b of row r.

    A NaN anywhere in the block makes it NaN; otherwise an infinity makes it +Inf. (Source:
    docs/FORMAT.md; damage is shown, not repaired.)

    Args:
        x: float64 [R, C].
        blocksize: elements in a block; blocks do not cross a row.

    Returns:
        float64 [R, ceil(C / blocksize)]; the maximum of the inputs, so exact in their type.
    """
    rows, cols = x.shape
    blocks = count_blocks(cols, blocksize)
    padded = np.zeros((rows, blocks * blocksize))
    padded[:, :cols] = np.abs(x)
    absmax = padded.reshape(rows, blocks, blocksize).max(axis=2, initial=0.0)
    return np.where(np.isnan(absmax), np.nan, absmax)


def encode(x: Float64, absmax: Float64, book: Codebook) -> Array:
    """The nearest code of each x / absmax, the lower one of a tie, decided on the exact ratio.

    code = order[ #{i : x > T_i * absmax} ] with T_i the midpoints of the codebook in ascending
    order. A block whose absmax is 0, NaN or Inf holds the code of zero throughout.

    Args:
        x: float64 [...].
        absmax: float64 [...], the scale of each element's block (see `spread`).
        book: the codebook.

    Returns:
        uint8 [...], codes.
    """
    usable = (absmax > 0) & np.isfinite(absmax)
    scale = np.where(usable, absmax, 1.0)
    ratio = np.where(usable, x, 0.0) / scale
    thresholds = book.thresholds
    position = np.searchsorted(thresholds, ratio, side="left")  # how many T_i < ratio

    below = thresholds[np.maximum(position - 1, 0)]
    above = thresholds[np.minimum(position, len(thresholds) - 1)]
    near = (np.abs(ratio - below) <= _DOUBT * np.abs(below)) | (
        np.abs(ratio - above) <= _DOUBT * np.abs(above)
    )
    near &= ratio != 0  # a zero quotient is exact
    for place in np.argwhere(near & usable):
        where = tuple(place)
        exact = Fraction(float(x[where])) / Fraction(float(scale[where]))
        position[where] = bisect_left(book.exact_thresholds, exact)
    return np.where(usable, book.order[position], book.zero).astype(np.uint8)


def decode(codes: Array, absmax: Float64, book: Codebook) -> Float64:
    """Return book[code] * absmax as float64: exact, because both factors have 24 bits."""
    with np.errstate(invalid="ignore"):  # 0 * Inf is NaN: the damage of an Inf block shows
        return book.values[codes] * absmax
