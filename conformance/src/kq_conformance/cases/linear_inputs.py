"""Inputs of the linear layers and of their gradients, and weights with damaged blocks."""

from dataclasses import replace

import numpy as np

from kq_conformance.cases.draw import Draw
from kq_conformance.cases.weights import Weights, plain_scales
from kq_conformance.floats import FORMATS, Stored, store
from kq_conformance.reference import codebook_4bit, pack, spread, unpack

__all__ = ["damaged", "linear_input"]

_FEW_PRODUCTS = 6  # that are not zero, in every second row of an input


def linear_input(draw: Draw, rows: int, cols: int, kind: str, dtype: str) -> Stored:
    """Rows of different size, every second one with few numbers that are not zero.

    A long sum may err by much, in the worst order; a short one may not, and shows what a weight is
    to a few units of its last place.

    Args:
        draw: random numbers.
        rows: M.
        cols: K, or N for a gradient.
        kind: "" or "nonfinite": NaN and infinities in some rows; "denormal": below the normal
            range; "overflow": so large that some results are beyond the largest number.
        dtype: type of the result.
    """
    chosen = FORMATS[dtype]
    values = draw.bell(rows, cols) * draw.magnitudes(-3, 3, rows, 1)
    if cols > _FEW_PRODUCTS:
        kept = draw.integers(cols, rows, _FEW_PRODUCTS)
        kept[:, 0] = cols - 1
        few = np.zeros((rows, cols), dtype=bool)
        np.put_along_axis(few, kept, True, axis=1)
        values[1::2] *= few[1::2]
    if kind == "nonfinite":
        values[0, 0], values[1, cols - 1], values[2, cols // 2] = np.nan, np.inf, -np.inf
    elif kind == "denormal":
        subnormals = draw.integers(2 ** (chosen.precision - 1), rows, cols)
        values = chosen.tiny * draw.signs(rows, cols) * subnormals
    elif kind == "overflow":
        values = chosen.largest * draw.signs(rows, cols)
    return store(values, dtype)


def damaged(weights: Weights, nan_row: int, inf_row: int) -> Weights:
    """Weights with a block in each of two rows that the quantizer made of NaN, or of Inf.

    Such blocks hold codes of zero. The scales are plain ones.
    """
    absmax = weights.absmax
    absmax[nan_row, 0], absmax[inf_row, -1] = np.nan, np.inf
    broken = ~np.isfinite(spread(absmax, weights.cols, weights.blocksize))
    book = codebook_4bit(weights.quant_type)
    codes = np.where(broken, book.zero, unpack(weights.packed, weights.cols))
    packed = pack(codes.astype(np.uint8), book.zero)
    return replace(weights, packed=packed, scales=plain_scales(absmax))
