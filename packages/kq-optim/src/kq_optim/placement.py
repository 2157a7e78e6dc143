"""Where state lives."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Placement(Protocol):
    """Provides the memory of state tensors."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns an uninitialized tensor that a step on `device` can read and write."""


class Resident:
    """Ordinary memory of the parameter's device."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns an uninitialized tensor on `device`."""
        return torch.empty(shape, dtype=dtype, device=device)


PLACEMENTS: dict[str, Placement] = {"resident": Resident()}
