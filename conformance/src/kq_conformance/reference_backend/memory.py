"""The caller's tensors: read and written through their address, shape and strides."""

import ctypes
from typing import Any

import numpy as np

from kq_conformance.floats import FORMATS, Array, Float64, Stored, bits_dtype, values_of

__all__ = ["Memory", "bits_of", "format_of", "memory"]


def format_of(tensor: Any) -> str:
    """The name of a tensor's type, as in `kq_conformance.floats.Stored`."""
    return str(tensor.dtype).removeprefix("torch.")


def memory(tensor: Any, before: int = 0, after: int = 0) -> Array:
    """The memory of a contiguous tensor as uint8 [bytes].

    Args:
        tensor: a tensor on the processor.
        before: bytes before its first that are shown, too: not its own, for mutants.
        after: the same behind its last byte.
    """
    size = before + tensor.numel() * tensor.element_size() + after
    raw = (ctypes.c_uint8 * size).from_address(tensor.data_ptr() - before)
    return np.ndarray((size,), dtype=np.uint8, buffer=raw)


def bits_of(tensor: Any) -> Array:
    """The bit patterns of a tensor in place, in its shape and with its strides."""
    kind = bits_dtype(format_of(tensor))
    shape = tuple(tensor.shape)
    if 0 in shape:
        return np.zeros(shape, dtype=kind)
    strides = tuple(kind.itemsize * step for step in tensor.stride())
    size = kind.itemsize + sum(
        (length - 1) * step for length, step in zip(shape, strides, strict=True)
    )
    raw = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    return np.ndarray(shape, dtype=kind, buffer=raw, strides=strides)


class Memory:
    """Reads and writes tensors; the bottom of the reference backend."""

    def codes(self, tensor: Any) -> Array:
        """Read codes: uint8, in the shape of the tensor."""
        return bits_of(tensor).copy()

    def load(self, tensor: Any) -> Float64:
        """Read numbers: float64, in the shape of the tensor."""
        return values_of(Stored(bits_of(tensor), format_of(tensor)))

    def write(self, tensor: Any, bits: Array) -> None:
        """Write codes or bit patterns."""
        bits_of(tensor)[...] = bits

    def store(self, tensor: Any, values: Float64) -> None:
        """Write numbers, rounded to the type of the tensor."""
        chosen = FORMATS[format_of(tensor)]
        self.write(tensor, chosen.encode(chosen.round(values)))
