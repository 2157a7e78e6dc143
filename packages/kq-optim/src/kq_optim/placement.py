"""Where state lives, and in which portions it is stepped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kq_optim.offloaded import Offloaded
from kq_optim.paged import Paged
from kq_optim.transfers import transfers_for

States = Sequence[Mapping[str, Tensor]]


class Placement(Protocol):
    """Provides the memory of state tensors."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a tensor of any content for the state of a parameter on `device`."""

    def settle(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of the same content, in the placement's memory."""

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Says that tensors will not be needed soon."""

    def synchronize(self) -> None:
        """Waits until the host can read the state that was stepped."""

    def walk(self, states: States) -> Iterator[tuple[slice, States]]:
        """Yields which states to step together, and as what; the others may be set aside."""


class Resident:
    """Ordinary memory of the parameter's device."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns an uninitialized tensor on `device`."""
        return torch.empty(shape, dtype=dtype, device=device)

    def settle(self, tensor: Tensor) -> Tensor:
        """Returns the tensor itself."""
        return tensor

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Keeps everything."""

    def synchronize(self) -> None:
        """Leaves it to torch, which waits where a tensor of a device is read."""

    def walk(self, states: States) -> Iterator[tuple[slice, States]]:
        """Yields all states at once, as they are."""
        yield slice(0, len(states)), states


RESIDENT = Resident()


def placement_for(options: Mapping[str, Any], device: torch.device) -> Placement:
    """The placement that a parameter's options ask for, if it is on `device`.

    Raises:
        NotImplementedError: if there is none.
    """
    if options["placement"] == "resident":
        return RESIDENT
    if device.type == "cpu":
        return Paged(options["paged_directory"])
    return Offloaded(transfers_for(device))
