"""The steps that all formats of blocks with a scale share."""

from kq_conformance import reference
from kq_conformance.floats import Array, Float64
from kq_conformance.reference import Codebook
from kq_conformance.reference_backend.memory import Memory

__all__ = ["Blocks"]


class Blocks(Memory):
    """Scales and codes of blocks."""

    def code_map(self, values: Float64) -> Codebook:
        """The table of an 8-bit operation, from the caller's values [256]."""
        return reference.codebook_8bit(values)

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        """The scale of each block [R, blocks] of x [R, C]."""
        return reference.block_absmax(x, blocksize)

    def spread(self, per_block: Float64, cols: int, blocksize: int) -> Float64:
        """The scale of each element [R, cols], from those of the blocks [R, blocks]."""
        return reference.spread(per_block, cols, blocksize)

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        """The code of each element; scale has the shape of x."""
        return reference.encode(x, scale, book)

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        """The number of each code, unrounded; scale has the shape of codes."""
        return reference.decode(codes, scale, book)
