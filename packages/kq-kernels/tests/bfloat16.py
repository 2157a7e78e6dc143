"""bfloat16 for NumPy, which has none: arrays of uint16 with the upper half of a float32's bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_bits(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return values(to_bits(x))


def argument(bits: NDArray[np.uint16]) -> tuple[int, int, str]:
    """The array for a kernel; the caller keeps it alive."""
    assert bits.dtype == np.uint16
    assert bits.flags.c_contiguous
    return (bits.ctypes.data, bits.size, "bfloat16")
