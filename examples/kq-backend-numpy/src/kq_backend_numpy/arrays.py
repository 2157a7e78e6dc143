"""Tensors as NumPy arrays, and blocks of numbers as codes (docs/FORMAT.md of kq)."""

from types import SimpleNamespace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
T = Any  # a torch.Tensor, or a list of them; torch itself is not imported

# NumPy has no bfloat16. It is the upper half of a float32, so its bits are enough.
_TYPES = {"float32": "f4", "bfloat16": "u2", "float16": "f2", "uint8": "u1"}
_NF4 = bytes.fromhex(
    "bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000"
    "3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000"
)
_FP4 = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
TABLES = {"nf4": np.frombuffer(_NF4, ">f4").astype("f4"), "fp4": np.concatenate([_FP4, 0 - _FP4])}


def _view(tensor: T) -> Array:
    """The memory of a tensor, whose rows may lie apart."""
    dtype = np.dtype(_TYPES[str(tensor.dtype).removeprefix("torch.")])
    shape, strides = tuple(tensor.shape), tuple(step * dtype.itemsize for step in tensor.stride())
    memory = {"data": (tensor.data_ptr(), False), "shape": shape, "strides": strides, "version": 3}
    return np.asarray(SimpleNamespace(__array_interface__=memory | {"typestr": dtype.str}))


def load(tensor: T) -> Array:
    """Return numbers as float32 and codes as uint8; not to be written to."""
    array = _view(tensor)
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def store(tensors: T, results: list[Array] | tuple[Array, ...]) -> None:
    """Write codes, and float32 numbers rounded to the tensor's type: to nearest, ties to even."""
    for array, values in zip(map(_view, tensors), results, strict=True):
        if array.dtype == np.uint16:
            bits = values.view(np.uint32)
            values = np.where(np.isnan(values), 0x7FC0, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
        array[...] = values.reshape(array.shape)


def quantize(x: Array, table: Array, blocksize: int) -> tuple[Array, Array]:
    """Return the codes of x [..., C], each the nearest, of a tie the lower one, and the scales."""
    absmax = np.maximum.reduceat(np.abs(x), np.arange(0, x.shape[-1], blocksize), axis=-1)
    absmax[np.isnan(absmax)] = np.nan  # one NaN for all: 7fc00000
    # Dividing by infinity gives 0 or NaN, and both become the code of zero. A float64 quotient is
    # on the true side of every midpoint of up to 29 bits: it is equal, or off by over 1 in 2^53.
    scale = np.where(absmax > 0, absmax, np.inf)[..., np.arange(x.shape[-1]) // blocksize]
    ratio = np.nan_to_num(x / scale.astype(np.float64), nan=0.0)
    order = np.argsort(table, kind="stable")  # of FP4's two zeros, code 0 comes first
    midpoints = (table[order[:-1]].astype(np.float64) + table[order[1:]]) / 2
    return order[np.searchsorted(midpoints, ratio)].astype(np.uint8), absmax


def dequantize(codes: Array, absmax: Array, table: Array, blocksize: int) -> Array:
    """Return the value of each code times the scale of its block, in float32."""
    return table[codes] * absmax[..., np.arange(codes.shape[-1]) // blocksize]
