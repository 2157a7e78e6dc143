"""Checks of Python types, before a call is dispatched: torch refuses them with a RuntimeError."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .state import QuantState


def check_tensors(**tensors: object) -> None:
    """Raise TypeError unless all arguments, given by name, are tensors."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")


def check_optional_tensors(**tensors: object) -> None:
    """Raise TypeError unless all arguments, given by name, are tensors or None."""
    for name, tensor in tensors.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor or None, got {type(tensor).__name__}")


def check_state(quant_state: object) -> None:
    """Raise TypeError unless an argument is a QuantState."""
    if not isinstance(quant_state, QuantState):
        raise TypeError(f"quant_state must be a QuantState, got {type(quant_state).__name__}")


def check_dtypes(**dtypes: object) -> None:
    """Raise TypeError unless all arguments, given by name, are dtypes."""
    for name, dtype in dtypes.items():
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{name} must be a torch.dtype, got {type(dtype).__name__}")


def check_lists(kind: type, **lists: object) -> None:
    """Raise TypeError unless all arguments, given by name, are sequences of a type."""
    for name, items in lists.items():
        if not isinstance(items, Sequence):
            raise TypeError(f"{name} must be a sequence, got {type(items).__name__}")
        if all(issubclass(found, kind) for found in set(map(type, items))):
            continue
        for i, item in enumerate(items):
            if not isinstance(item, kind):
                raise TypeError(f"{name}[{i}] must be a {kind.__name__}, got {type(item).__name__}")


def check_integers(**lists: Sequence[int]) -> None:
    """Raise TypeError or ValueError unless all arguments are sequences of ints of 64 bits."""
    check_lists(int, **lists)
    for name, items in lists.items():
        for i, item in enumerate(items):
            if not -(2**63) <= item < 2**63:
                raise ValueError(f"{name}[{i}] must fit in 64 bits, with its sign, got {item}")


def check_numbers(**numbers: object) -> None:
    """Raise TypeError unless all arguments, given by name, are floats or ints."""
    for name, number in numbers.items():
        if not isinstance(number, (float, int)):
            raise TypeError(f"{name} must be a float, got {type(number).__name__}")


def check_flags(**flags: object) -> None:
    """Raise TypeError unless all arguments, given by name, are bools."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, got {type(flag).__name__}")
