"""Copies between the memory of a device and that of the host, beside the work of the device.

Everything that is specific to a device is in this file: a protocol, whose users are tested with a
model, and CUDA, which was written against torch's streams and has not yet run on a device. What is
enqueued on a lane happens in order, and the host does not wait for it. Lanes know nothing of each
other, but for what `Transfers.wait` says.
"""

from __future__ import annotations

import enum
import functools
import warnings
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Mark = TypeVar("Mark")
"""How a device notes what was enqueued on a lane up to some time."""


class Lane(enum.Enum):
    """A queue of a device."""

    CURRENT = "current"
    """Where torch's operations go: the caller's current stream."""
    UPLOAD = "upload"
    """Copies from the host's memory to the device's."""
    DOWNLOAD = "download"
    """Copies back."""


class Transfers(Protocol[Mark]):
    """The lanes of one device."""

    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Returns a tensor of any content in memory of the host, to copy from and to."""

    def is_host_memory(self, tensor: Tensor) -> bool:
        """Whether a tensor is in such memory as `host_empty` provides."""

    def device_empty(self, size: int) -> Tensor:
        """Returns `size` bytes of the device's memory, uint8 [size], of any content.

        What was enqueued on `CURRENT` before may still use them, and what is enqueued there after
        the tensor died may use them again: other lanes must be ordered between the two.
        """

    def copy(self, lane: Lane, target: Tensor, source: Tensor) -> None:
        """Enqueues a copy on a lane."""

    def mark(self, lane: Lane) -> Mark:
        """Notes everything that was enqueued on a lane so far."""

    def wait(self, lane: Lane, mark: Mark) -> None:
        """Lets what is enqueued on a lane from now on wait for what was noted."""

    def synchronize(self) -> None:
        """Makes the host wait until everything that was enqueued is done."""


class CudaTransfers:
    """Streams of a CUDA device, and pinned memory of the host.

    Whether memory can be pinned, that is, locked and known to the device, is probed when the first
    optimizer needs it. Where it cannot be, copies are right but make the host wait.

    Args:
        device: with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = {lane: torch.cuda.Stream(device) for lane in (Lane.UPLOAD, Lane.DOWNLOAD)}
        self._pins = _pinned_empty((1,), torch.uint8) is not None
        if not self._pins:
            warnings.warn(
                f"memory of the host cannot be pinned for {device}: the copies of paged optimizer "
                "state will not overlap with its steps",
                RuntimeWarning,
                stacklevel=2,
            )

    def host_empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """See `Transfers.host_empty`: pinned as long as the system lets memory be locked."""
        pinned = _pinned_empty(shape, dtype) if self._pins else None
        return torch.empty(shape, dtype=dtype, device="cpu") if pinned is None else pinned

    def is_host_memory(self, tensor: Tensor) -> bool:
        """See `Transfers.is_host_memory`."""
        return tensor.device.type == "cpu" and (tensor.is_pinned() or not self._pins)

    def device_empty(self, size: int) -> Tensor:
        """See `Transfers.device_empty`: that is how torch's allocator orders the current stream."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def copy(self, lane: Lane, target: Tensor, source: Tensor) -> None:
        """See `Transfers.copy`; waits for the lane itself unless the host's side is pinned."""
        host = source if source.device.type == "cpu" else target
        with torch.cuda.stream(self._stream(lane)):
            target.copy_(source, non_blocking=host.is_pinned())

    def mark(self, lane: Lane) -> torch.cuda.Event:
        """See `Transfers.mark`."""
        event = torch.cuda.Event()
        event.record(self._stream(lane))
        return event

    def wait(self, lane: Lane, mark: torch.cuda.Event) -> None:
        """See `Transfers.wait`: the host does not."""
        self._stream(lane).wait_event(mark)

    def synchronize(self) -> None:
        """See `Transfers.synchronize`: all streams, since nobody knows which was current."""
        torch.cuda.synchronize(self._device)

    def _stream(self, lane: Lane) -> torch.cuda.Stream:
        if lane is Lane.CURRENT:
            return torch.cuda.current_stream(self._device)
        return self._streams[lane]


@functools.cache
def transfers_for(device: torch.device) -> Transfers[Any]:
    """The lanes of a device, which all optimizers share.

    Raises:
        NotImplementedError: if the device is not known here.
    """
    if device.type != "cuda":
        raise NotImplementedError(
            "placement='paged' is implemented for parameters on the CPU and on CUDA, "
            f"got one on {device}; use placement='resident'"
        )
    return CudaTransfers(device)


def _pinned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor in pinned memory; None if the system refuses to lock so much."""
    try:
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)
    except RuntimeError:
        return None
