"""Matrices that a quantizer may get wrong."""

from collections.abc import Callable

import numpy as np

from kq_conformance.cases.draw import Draw
from kq_conformance.floats import FORMATS, Array, Float64, Stored, store
from kq_conformance.reference import Codebook, count_blocks

__all__ = [
    "LONG",
    "MANY",
    "MATRICES",
    "anchored_sweep",
    "empty",
    "every_length",
    "midpoints",
    "natural_sweep",
    "odd",
    "random",
    "tail_lengths",
]

Maker = Callable[[Draw, str, int], Stored]

# Beyond what 16 bits count, and beyond the 65,535 blocks that one axis of a GPU's grid has.
LONG = (1 << 16) + 70
MANY = (1 << 16) + 5

_EVERY_TAIL = (32, 64)


def _rows(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """Nearly normal numbers, rows of different size, odd width with a tail block."""
    rows = draw.bell(3, 2 * blocksize + 7) * draw.magnitudes(-8, 8, 3, 1)
    return store(rows, dtype)


def _wide(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """Every magnitude that the type has, in one block."""
    chosen = FORMATS[dtype]
    shape = (2, blocksize + 3)
    return store(draw.signs(*shape) * draw.magnitudes(chosen.emin, chosen.emax, *shape), dtype)


def _denormals(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """Multiples of the smallest number, and a block that holds it once."""
    values = FORMATS[dtype].tiny * draw.integers(40, 3, 2 * blocksize + 1) * draw.signs(1)
    values[1, :] = 0.0
    values[1, blocksize // 2] = -FORMATS[dtype].tiny
    return store(values, dtype)


def _zeros(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """Blocks of +0, blocks of −0, and zeros beside numbers in one block."""
    values = draw.signs(4, 2 * blocksize + 1) * 0.0
    values[0] = 0.0
    values[1] = -0.0
    values[3, :blocksize:2] = draw.bell((blocksize + 1) // 2)
    return store(values, dtype)


def _spike(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """One element of each block is the largest finite number, of either sign."""
    blocks = 3
    values = draw.bell(2, blocks, blocksize)
    where = draw.integers(blocksize, 2, blocks, 1)
    huge = FORMATS[dtype].largest * draw.signs(2, blocks, 1)
    np.put_along_axis(values, where, huge, axis=2)
    return store(values.reshape(2, -1), dtype)


def _nonfinite(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """NaN, Inf and both at the start, inside and at the end of blocks, and in the tail."""
    kinds = ([np.nan], [np.inf], [-np.inf], [np.nan, -np.inf])
    places = (0, blocksize // 2, blocksize - 1)
    cols = 2 * blocksize + 2
    rows = []
    for kind in kinds:
        for place in places:
            row = draw.bell(cols)
            for shift, value in enumerate(kind):
                row[(place + shift * (blocksize - 1)) % blocksize] = value
            rows.append(row)
        row = draw.bell(cols)
        row[-len(kind) :] = kind
        rows.append(row)
    stored = store(np.array(rows), dtype)
    # NaN has many bit patterns: one with a sign and a payload.
    sign_and_payload = 1 << (stored.bits.itemsize * 8 - 1) | 1
    stored.bits[0, 0] |= sign_and_payload
    return stored


MATRICES: dict[str, Maker] = {
    "random": _rows,
    "wide": _wide,
    "denormals": _denormals,
    "zeros": _zeros,
    "spike": _spike,
    "nonfinite": _nonfinite,
}


def tail_lengths(blocksize: int) -> list[int]:
    """Row lengths around a block: shorter, exact, one more, odd and even."""
    lengths = {
        1,
        2,
        3,
        blocksize - 1,
        blocksize,
        blocksize + 1,
        2 * blocksize - 1,
        2 * blocksize + 2,
    }
    return sorted(length for length in lengths if length > 0)


def every_length(blocksize: int) -> range:
    """Row lengths up to two blocks and one; none where blocks are too large to ask for all."""
    return range(1, 2 * blocksize + 2) if blocksize in _EVERY_TAIL else range(0)


def random(rows: int, cols: int) -> Maker:
    """Nearly normal numbers."""
    return lambda draw, dtype, blocksize: store(draw.bell(rows, cols), dtype)  # noqa: ARG005


def odd(rows: int) -> Maker:
    """Nearly normal numbers; each row has a tail, and starts at another place of a cache line."""
    return lambda draw, dtype, blocksize: store(draw.bell(rows, 3 * blocksize + 5), dtype)


def empty(rows: int, cols: int) -> Maker:
    """A matrix without elements."""
    return lambda draw, dtype, blocksize: store(np.zeros((rows, cols)), dtype)  # noqa: ARG005


def midpoints(book: Codebook) -> Maker:
    """For scales of many sizes: the number nearest to each midpoint × scale, one below, one above.

    With a scale that is a power of two, a midpoint that the type can hold is an exact tie.
    """

    def make(draw: Draw, dtype: str, blocksize: int) -> Stored:
        chosen = FORMATS[dtype]
        low = max(chosen.emin + 2, -100)
        scales = [1.0, 2.0**-5, 2.0**low, chosen.largest, *draw.magnitudes(low, 15, 3)]
        rows = []
        for scale in chosen.round(np.array(scales)):
            near = chosen.round(book.thresholds * scale)
            values = np.concatenate([near, chosen.step(near, -1), chosen.step(near, +1)])
            values = values[np.abs(values) <= scale]
            per_block = blocksize - 1
            blocks = count_blocks(3 * len(book.thresholds), per_block)
            body = np.zeros(blocks * per_block)
            body[: values.size] = values
            row = np.insert(body.reshape(blocks, per_block), 0, scale, axis=1)
            row[1::2, 0] *= -1
            for block in range(blocks):  # the largest element stands anywhere in its block
                row[block] = np.roll(row[block], int(draw.integers(blocksize, 1)[0]))
            rows.append(row.reshape(-1))
        return store(np.array(rows), dtype)

    return make


def _all_patterns(dtype: str) -> Stored:
    return Stored(np.arange(1 << 16, dtype=np.uint16), dtype)


def natural_sweep(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """All 65,536 bit patterns of a 16-bit type in order, NaN and Inf included; 16 rows."""
    del draw, blocksize
    return Stored(_all_patterns(dtype).bits.reshape(16, -1), dtype)


def anchored_sweep(draw: Draw, dtype: str, blocksize: int) -> Stored:
    """All finite patterns, in blocks that start with a power of two above all others of the block.

    Every number therefore meets a scale that it did not set itself.
    """
    del draw
    chosen = FORMATS[dtype]
    values: Array = chosen.decode(_all_patterns(dtype).bits)
    values = np.sort(values[np.isfinite(values)])
    per_block = blocksize - 1
    blocks = count_blocks(values.size, per_block)
    flat = np.zeros(blocks * per_block)
    flat[: values.size] = values
    body = flat.reshape(blocks, per_block)
    largest: Float64 = np.maximum(np.abs(body).max(axis=1, keepdims=True), chosen.tiny)
    exponent = np.minimum(np.frexp(largest)[1], chosen.emax)
    anchor = np.ldexp(1.0, exponent)
    return store(np.concatenate([anchor, body], axis=1).reshape(1, -1), dtype)
