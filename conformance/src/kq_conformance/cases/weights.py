"""Packed matrices and scales that a decoder or a linear layer gets."""

from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import Enclosure, Strictness, exact_scales, scale_enclosure
from kq_conformance.cases.draw import Draw
from kq_conformance.floats import Array, Float64, store, stored_bytes, values_of
from kq_conformance.reference import (
    NESTED_BLOCKSIZE,
    codebook_4bit,
    count_blocks,
    decode_scales,
    dynamic_map,
    pack,
    spread,
    unpack,
)
from kq_conformance.subject import StoredScales

__all__ = ["Weights", "nested_scales", "plain_scales", "random_weights"]


@dataclass(frozen=True, eq=False)
class Weights:
    """A 4-bit matrix [rows, cols] in memory.

    Attributes:
        packed: uint8 [rows, ceil(cols/2)].
        scales: plain or double-quantized.
        cols: row length.
        quant_type: "nf4" or "fp4".
        blocksize: elements that share a scale.
    """

    packed: Array
    scales: StoredScales
    cols: int
    quant_type: str
    blocksize: int

    @property
    def values(self) -> Float64:
        """float64 [rows, cols]: the codebook value of each code."""
        return codebook_4bit(self.quant_type).values[unpack(self.packed, self.cols)]

    @property
    def absmax(self) -> Float64:
        """float64 [rows, blocks]: the scales as the format decodes them."""
        if self.scales.nested_absmax is None:
            return values_of(self.scales.absmax)
        return decode_scales(self.scales.absmax.bits, *self._nested())

    def enclosure(self, strictness: Strictness) -> Enclosure:
        """The scale of each element [rows, cols], with the freedom that nested scales leave."""
        if self.scales.nested_absmax is None:
            scales = exact_scales(self.absmax)
        else:
            scales = scale_enclosure(self.scales.absmax.bits, *self._nested(), strictness)
        low, high = (spread(end, self.cols, self.blocksize) for end in (scales.low, scales.high))
        return Enclosure(low, high)

    def _nested(self) -> tuple[Float64, Float64, float]:
        _, nested_absmax, nested_code, offset = self.scales
        assert nested_absmax is not None
        assert nested_code is not None
        assert offset is not None
        return values_of(nested_absmax), values_of(nested_code), float(values_of(offset))


def plain_scales(absmax: Float64) -> StoredScales:
    """Scales in float32."""
    return StoredScales(store(absmax, "float32"))


def nested_scales(draw: Draw, rows: int, blocks: int) -> StoredScales:
    """Double-quantized scales: every code of the nested map occurs, around an offset."""
    codes = (np.arange(rows * blocks) * 37 + int(draw.integers(256, 1)[0])) % 256
    groups = count_blocks(rows * blocks, NESTED_BLOCKSIZE)
    return StoredScales(
        stored_bytes(codes.reshape(rows, blocks)),
        store(draw.magnitudes(-8, -5, groups), "float32"),
        store(dynamic_map(True).values, "float32"),
        store(np.asarray(0.03 + 0.01 * draw.uniform(1)[0]), "float32"),
    )


def random_weights(
    draw: Draw, rows: int, cols: int, quant_type: str, blocksize: int, nested: bool
) -> Weights:
    """Random codes; scales of the size that trained weights have, some zero if plain."""
    book = codebook_4bit(quant_type)
    blocks = count_blocks(cols, blocksize)
    if nested:
        scales = nested_scales(draw, rows, blocks)
    else:
        absmax = 0.02 + 0.06 * draw.uniform(rows, blocks)
        absmax[draw.uniform(rows, blocks) < 1 / 16] = 0.0
        scales = plain_scales(absmax)
    codes = draw.integers(16, rows, cols).astype(np.uint8)
    return Weights(pack(codes, book.zero), scales, cols, quant_type, blocksize)
