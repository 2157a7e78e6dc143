"""The int8 row format: one scale a row, codes from -127 to 127; its constants and checks.

A code is the integer nearest to 127 × x / absmax, ties to the even one; it decodes to
code × absmax / 127. Elements whose magnitude is at least a threshold are outliers: they do not
count for absmax, and in a column that has one all codes are 0.
"""

from __future__ import annotations

import math
import struct

import torch

from .formats import dtype_name

LARGEST_CODE = 127
PRODUCT_SCALE = 1 / 127**2
"""What a product of two codes is worth, of rows with absmax 1."""
MAX_INNER = 1 << 17
"""The most products in a sum: of codes up to 127, as quantizing makes them, they fit in int32."""


def check_threshold(threshold: object) -> None:
    """Raise unless `threshold` is a finite number that is not negative."""
    if isinstance(threshold, bool) or not isinstance(threshold, (float, int, torch.SymFloat)):
        raise TypeError(f"threshold must be a float, got {type(threshold).__name__}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be finite and at least 0, got {threshold}")


def check_int8(name: str, dtype: torch.dtype) -> None:
    """Raise TypeError unless a tensor of this dtype holds codes of this format."""
    if dtype != torch.int8:
        raise TypeError(f"{name} must be int8, got {dtype_name(dtype)}")


def check_inner(inner: int) -> None:
    """Raise ValueError if sums of so many products of codes do not fit in int32."""
    if inner > MAX_INNER:
        raise ValueError(f"the inner dimension must be at most {MAX_INNER}, got {inner}")


def float32_threshold(threshold: float) -> float:
    """Return the least float32 >= threshold: the same for float32 magnitudes, in their own type."""
    try:
        rounded: float = struct.unpack("f", struct.pack("f", threshold))[0]
    except OverflowError:  # above all that is finite
        return math.inf
    if rounded >= threshold:
        return rounded
    (bits,) = struct.unpack("I", struct.pack("f", rounded))
    above: float = struct.unpack("f", struct.pack("I", bits + 1))[0]
    return above
