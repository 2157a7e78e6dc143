"""Operands: real numbers instead of zeros, several copies instead of one that stays in a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

SAMPLED_ROWS = 128
_SEED = 20240


def gaussian(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """Normally distributed numbers, the same in every run.

    Zeros would flatter some contenders: multipliers draw less power on them and clock higher.
    """
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(_SEED))
    return (numbers * scale).to(dtype)


def rotate(make: Callable[[], T], nbytes: int, working_set: int) -> Iterator[T]:
    """Equal operands in different memory, in turn and without end.

    Args:
        make: returns the operands of one call, in memory of their own.
        nbytes: their size.
        working_set: size of all of them together, at least.
    """
    return cycle([make() for _ in range(-(-working_set // nbytes))])


def nbytes(*tensors: Tensor) -> int:
    """Size of tensors."""
    return sum(tensor.nbytes for tensor in tensors)


def sampled_rows(rows: int) -> Tensor:
    """The rows of a matrix that are checked: evenly spread, the first and the last among them."""
    return torch.linspace(0, rows - 1, min(rows, SAMPLED_ROWS)).round().long()


def dtype_name(dtype: torch.dtype) -> str:
    """Name without the module: float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")
