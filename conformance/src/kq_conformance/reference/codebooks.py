"""The codebooks, written down independently of any backend."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from kq_conformance.floats import FLOAT32, Array, Float64

__all__ = ["FOUR_BIT_BLOCKSIZES", "Codebook", "codebook_4bit", "codebook_8bit", "dynamic_map"]

FOUR_BIT_BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

# float32 bit patterns by code. NF4: QLoRA (arXiv:2305.14314), appendix E. FP4: the values 0, 1/16,
# 8, 12, 4, 6, 2, 3 divided by 12 and rounded to float32; bit 3 is the sign, but code 8 is +0.0 and
# not -0.0, as in the tables that checkpoints carry.
_NF4_BITS = """
    bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000
    3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000
"""
_FP4_BITS = """
    00000000 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000
    00000000 bbaaaaab bf2aaaab bf800000 beaaaaab bf000000 be2aaaab be800000
"""


@dataclass(frozen=True, eq=False)
class Codebook:
    """A table of values and the order in which the encoder walks through it.

    Attributes:
        values: float64 [n], the value of each code; every value is a float32.
        order: int [n], the codes in ascending order of value. Equal values keep a fixed order (FP4:
            code 0 before code 8), which decides how signs of values that round to zero are kept.
        zero: the code that stands for zero: zero blocks, damaged blocks and padding hold it.
    """

    values: Float64
    order: Array
    zero: int

    @cached_property
    def thresholds(self) -> Float64:
        """Midpoints of neighboring values, ascending: float64 [n-1]."""
        ascending = self.values[self.order]
        return (ascending[:-1] + ascending[1:]) / 2

    @cached_property
    def rank(self) -> Array:
        """Position of each code in `order`: int [n]."""
        return np.argsort(self.order)

    @cached_property
    def exact_thresholds(self) -> tuple[Fraction, ...]:
        """The midpoints as rational numbers, for decisions that float64 cannot make."""
        ascending = [Fraction(float(value)) for value in self.values[self.order]]
        return tuple((a + b) / 2 for a, b in pairwise(ascending))


@cache
def codebook_4bit(quant_type: str) -> Codebook:
    """The table of "nf4" or "fp4".

    Raises:
        ValueError: for any other name.
    """
    tables = {"nf4": _NF4_BITS, "fp4": _FP4_BITS}
    if quant_type not in tables:
        raise ValueError(f"quant_type must be one of {sorted(tables)}, got {quant_type!r}")
    bits = np.array([int(word, 16) for word in tables[quant_type].split()], dtype=np.uint32)
    values = FLOAT32.decode(bits)
    # A stable sort keeps FP4's code 0 before code 8.
    return Codebook(values, np.argsort(values, kind="stable"), zero=7 if quant_type == "nf4" else 0)


def codebook_8bit(values: Array) -> Codebook:
    """The table of an 8-bit quantizer: 256 values in ascending order, each a float32.

    Its code for zero is the code nearest to 0, the lower one of a tie.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (256,) or not np.all(np.diff(values) >= 0):
        raise ValueError(f"values must be 256 ascending numbers, got shape {values.shape}")
    return Codebook(values, np.arange(256), zero=int(np.argmin(np.abs(values))))


def _float32(x: Fraction) -> Fraction:
    """Round a rational number to float32.

    The numbers of `dynamic_map` fit float64, so that they are rounded once.
    """
    assert Fraction(float(x)) == x
    return Fraction(float(FLOAT32.round(float(x))))


@cache
def dynamic_map(signed: bool) -> Codebook:
    """The dynamic 8-bit map: seven decades, each with twice as many values as the one below.

    Definition (Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", arXiv:1511.04561,
    and "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861, section 2): decade i of
    0..6 holds n = 2**i (signed; both signs) or 2**(i+1) (unsigned) values 10**(i-6) * (b[k] +
    b[k+1]) / 2, where b are n+1 equally spaced points from 0.1 to 1; zero and one complete it.
    Stored maps were computed in float32, and the last bits are part of the format: each point of
    the grid, counted from the nearer end, each midpoint and each product with the decade's float32
    scale is rounded once.
    """
    start, one = _float32(Fraction(float(FLOAT32.round(0.1)))), Fraction(1)
    values = [Fraction(0), one]
    for decade in range(7):
        n = 2**decade if signed else 2 ** (decade + 1)
        scale = Fraction(float(FLOAT32.round(10.0 ** (decade - 6))))
        spacing = _float32((one - start) / n)  # n is a power of two: the quotient is short
        grid = [
            _float32(start + k * spacing) if k < (n + 1) // 2 else _float32(one - (n - k) * spacing)
            for k in range(n + 1)
        ]
        for low, high in pairwise(grid):
            value = _float32(_float32((low + high) / 2) * scale)
            values += [value, -value] if signed else [value]
    return codebook_8bit(np.array([float(value) for value in sorted(values)]))
