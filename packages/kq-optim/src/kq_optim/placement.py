"""Where state lives, and in which portions it is stepped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kq_optim.paged import Paged

States = Sequence[Mapping[str, Tensor]]


class Placement(Protocol):
    """Provides the memory of state tensors."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a tensor of any content that a step on `device` can read and write."""

    def check_device(self, device: torch.device) -> None:
        """Raises NotImplementedError unless it can serve parameters on `device`."""

    def settle(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of the same content, in the placement's memory."""

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Says that tensors will not be needed soon."""

    def walk(self, states: States) -> Iterator[slice]:
        """Yields which states to step together; what is not in use meanwhile may be set aside."""


class Resident:
    """Ordinary memory of the parameter's device."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns an uninitialized tensor on `device`."""
        return torch.empty(shape, dtype=dtype, device=device)

    def check_device(self, device: torch.device) -> None:
        """Serves any device."""

    def settle(self, tensor: Tensor) -> Tensor:
        """Returns the tensor itself."""
        return tensor

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Keeps everything."""

    def walk(self, states: States) -> Iterator[slice]:
        """Yields all states at once."""
        yield slice(0, len(states))


RESIDENT = Resident()


def placement_for(options: Mapping[str, Any]) -> Placement:
    """The placement that a parameter's options ask for."""
    if options["placement"] == "paged":
        return Paged(options["paged_directory"])
    return RESIDENT
