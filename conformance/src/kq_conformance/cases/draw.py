"""Random numbers that are the same on every platform and in every version of NumPy."""

import math

import numpy as np

from kq_conformance.floats import Array, Float64

__all__ = ["Draw"]

_HALF_WORD = 1 << 16


class Draw:
    """A stream of numbers made from the raw 64-bit output of PCG64 by exact arithmetic.

    NumPy promises a stable stream for its bit generators, not for its distributions, and `log` or
    `cos` differ between platforms in the last bit; hence neither is used.

    Args:
        key: seed of PCG64.
    """

    def __init__(self, key: int) -> None:
        self._bits = np.random.PCG64(key)

    def words(self, *shape: int) -> Array:
        """uint64 words."""
        count = int(np.prod(shape))
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64).reshape(shape)

    def uniform(self, *shape: int) -> Float64:
        """Numbers in [0, 1), multiples of 2**-53."""
        words: Float64 = (self.words(*shape) >> np.uint64(11)).astype(np.float64)
        return words * 2.0**-53

    def integers(self, high: int, *shape: int) -> Array:
        """Integers in [0, high), for high far below 2**53."""
        return np.floor(self.uniform(*shape) * high).astype(np.int64)

    def bell(self, *shape: int) -> Float64:
        """Numbers of mean 0 and standard deviation 1, nearly normal: sums of four uniform ones."""
        words = self.words(*shape)
        total: Float64 = np.zeros(shape)
        for part in range(4):
            total += ((words >> np.uint64(16 * part)) & np.uint64(_HALF_WORD - 1)).astype(
                np.float64
            )
        # Each part has the mean (2**16 − 1)/2 and the variance (2**32 − 1)/12.
        deviation = math.sqrt((_HALF_WORD**2 - 1) / 3)
        return (total - 2 * (_HALF_WORD - 1)) / deviation

    def signs(self, *shape: int) -> Float64:
        """+1 and −1."""
        return 1.0 - 2.0 * self.integers(2, *shape)

    def magnitudes(self, low: int, high: int, *shape: int) -> Float64:
        """Positive numbers of every magnitude from 2**low to 2**high, evenly in the exponent."""
        scaled: Float64 = np.ldexp(
            1 + self.uniform(*shape), low + self.integers(high - low, *shape)
        )
        return scaled
