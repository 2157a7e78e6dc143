"""8-bit codebooks that the cases use, by name."""

from collections.abc import Callable

import numpy as np

from kq_conformance.cases.draw import Draw
from kq_conformance.floats import FLOAT32, Float64
from kq_conformance.reference import dynamic_map

__all__ = ["CODE_MAPS"]


def _even() -> Float64:
    """(i − 127) / 128: midpoints are short binary fractions, so that every type has exact ties."""
    return (np.arange(256) - 127) / 128


def _sparse() -> Float64:
    """Fifteen distinct values around a run of 241 zeros, as maps of fewer bits are padded."""
    values = np.zeros(256)
    values[:7] = np.arange(-7, 0) / 7
    values[-8:] = np.arange(1, 9) / 8
    return FLOAT32.round(values)


def _uneven() -> Float64:
    """Ascending values with gaps of very different size."""
    gaps = Draw(0).magnitudes(-20, 0, 256)
    steps = np.cumsum(gaps)
    return FLOAT32.round(2 * steps / steps[-1] - 1)


CODE_MAPS: dict[str, Callable[[], Float64]] = {
    "dynamic-signed": lambda: dynamic_map(True).values,
    "dynamic-unsigned": lambda: dynamic_map(False).values,
    "even": _even,
    "sparse": _sparse,
    "uneven": _uneven,
}
