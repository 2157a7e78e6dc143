"""The int8 operations in NumPy, in float64 but for the two roundings that decide about codes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rows(NamedTuple):
    codes: NDArray[np.int8]
    absmax: NDArray[np.float32]
    outliers: NDArray[np.bool_]
    """Columns with an outlier."""


def quantize(x: NDArray[np.float32], threshold: float = 0.0) -> Rows:
    """code = rint(x * (127 / absmax)), both operations in float32."""
    magnitude = np.abs(x)
    is_outlier = (magnitude >= threshold) if threshold > 0 else np.zeros(x.shape, bool)
    absmax = np.where(is_outlier, 0, magnitude).max(axis=1, initial=0).astype(np.float32)
    outliers = is_outlier.any(axis=0)
    usable = np.isfinite(absmax) & (absmax > 0)
    # The reciprocal of the smallest ones overflows; a power of two changes nothing else.
    power = np.where(absmax < np.float32(2.0**-100), np.float32(2.0**64), np.float32(1))
    inverse = np.float32(127) / np.where(usable, absmax * power, np.float32(1))
    kept = np.where(usable[:, None] & ~outliers, x, np.float32(0))
    codes = np.rint(kept * power[:, None] * inverse[:, None]).astype(np.int8)
    return Rows(codes, absmax, outliers)


def dequantize(codes: NDArray[np.int8], absmax: NDArray[np.float32]) -> NDArray[np.float32]:
    return codes * (absmax / np.float32(127))[:, None]


def matmul(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.int32]:
    """Exact: float64 holds the sums of 2^17 products."""
    return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.int32)
