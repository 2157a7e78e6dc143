"""Tensors as arguments of kq-kernels: (address, number of elements, dtype name)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import FLOAT_DTYPES, dtype_name

_NAMES = {
    dtype: dtype_name(dtype) for dtype in (*FLOAT_DTYPES, torch.uint8, torch.int8, torch.int32)
}
_NAMES[torch.bool] = "uint8"

Array = tuple[int, int, str]


def array_argument(tensor: Tensor) -> Array:
    """Return a contiguous tensor."""
    name = _NAMES.get(tensor.dtype)
    if name is None or not tensor.is_cpu:
        raise NotImplementedError(
            f"the native backend takes CPU tensors of {', '.join(dict.fromkeys(_NAMES.values()))}, "
            f"got {dtype_name(tensor.dtype)} on {tensor.device}"
        )
    return tensor.data_ptr(), tensor.numel(), name


def rows_argument(name: str, tensor: Tensor) -> tuple[Array, int | None]:
    """Return the memory of a matrix whose rows may lie apart, and how far; None if they do not."""
    if tensor.is_contiguous():
        return array_argument(tensor), None
    rows, cols = tensor.shape
    row_stride, stride = tensor.stride()
    if stride != 1 or row_stride < cols:
        raise ValueError(
            f"{name} must have the strides (at least {cols}, 1), got {tensor.stride()}"
        )
    address, _, dtype = array_argument(tensor)
    return (address, (rows - 1) * row_stride + cols, dtype), row_stride


def optional_argument(tensor: Tensor | None) -> Array | None:
    """Return a contiguous tensor, or None for None."""
    return None if tensor is None else array_argument(tensor)
