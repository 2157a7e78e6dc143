"""Bit patterns to torch tensors and back."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kq_conformance.floats import Array, Stored, bits_dtype

__all__ = ["bytes_of", "from_tensor", "poisoned", "to_tensor"]

_POISON = 0xFF  # NaN in each float format, the highest code in bytes


def to_tensor(stored: Stored, device: str) -> Tensor:
    """A contiguous tensor with these bit patterns."""
    flat = torch.from_numpy(stored.bits.reshape(-1).copy())
    return flat.view(getattr(torch, stored.dtype)).view(stored.bits.shape).to(device)


def from_tensor(tensor: Tensor) -> Stored:
    """The bit patterns of a tensor of one of the types that `Stored` has."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    kind = bits_dtype(dtype)
    return Stored(bytes_of(tensor).view(kind).reshape(tuple(tensor.shape)), dtype)


def bytes_of(tensor: Tensor) -> Array:
    """The elements of a tensor in row-major order, copied: uint8 [bytes]."""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    # An own copy: a tensor without elements, or with one, may have strides that forbid the view.
    dense = torch.empty(tensor.numel(), dtype=tensor.dtype)
    dense.copy_(tensor.detach().reshape(-1))
    content: Array = dense.view(torch.uint8).numpy()
    return content


def poisoned(shape: Sequence[int], dtype: str, device: str) -> Tensor:
    """A tensor for results, in which an element that is not written shows."""
    kind = getattr(torch, dtype)
    raw = torch.full((int(np.prod(shape)) * kind.itemsize,), _POISON, dtype=torch.uint8)
    return raw.view(kind).view(tuple(shape)).to(device)
