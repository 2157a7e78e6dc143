"""State in memory of the host, for parameters on a device: copied there to be stepped, and back.

While a portion of the parameters is stepped, state of the next one comes, and state of the one
before goes. The order is enqueued on the device; the host waits for nothing, so that whoever reads
state there must call `Offloaded.synchronize` first.

Managed memory, which moves by itself when the device touches it, is not used: torch provides it
only through an allocator of compiled code, which this package has none of, it is absent or slow on
some systems (Windows, WSL), and what moves when is not up to the program.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kq_optim.paged import MIN_PAGED_SIZE, batches
from kq_optim.transfers import Lane, Transfers

BUFFERS = 3
"""One is filled, one is stepped, one is emptied."""

_ALIGNMENT = 512  # bytes; where torch's own allocator would let a tensor begin


class Offloaded(NamedTuple):
    """Memory of the host for large tensors; small ones stay on the device.

    Attributes:
        transfers: the lanes of the parameters' device.
    """

    transfers: Transfers[Any]

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a tensor in memory of the host if it is large, else on `device`."""
        if math.prod(shape) < MIN_PAGED_SIZE:
            return torch.empty(shape, dtype=dtype, device=device)
        return self.transfers.host_empty(shape, dtype)

    def settle(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of the same content, in memory of the host if it is large."""
        if not _is_large(tensor) or self.transfers.is_host_memory(tensor):
            return tensor
        return self.transfers.host_empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Keeps everything."""

    def synchronize(self) -> None:
        """Waits until the state that was stepped is back."""
        self.transfers.synchronize()

    def walk(
        self, states: Sequence[Mapping[str, Tensor]]
    ) -> Iterator[tuple[slice, Sequence[Mapping[str, Tensor]]]]:
        """Yields states in portions of about `paged.BATCH_BYTES`, on the device.

        The buffers live as long as the walk: between steps their memory serves others.
        """
        if not any(_is_large(tensor) for state in states for tensor in state.values()):
            yield slice(0, len(states)), states
            return
        lanes = self.transfers
        portions = _lay_out(states, lanes)
        emptied: list[Any] = []  # marks, by portion

        def upload(number: int) -> Any:
            if number >= BUFFERS:  # then the buffer had another portion
                lanes.wait(Lane.UPLOAD, emptied[number - BUFFERS])
            for on_device, on_host in portions[number].pairs:
                lanes.copy(Lane.UPLOAD, on_device, on_host)
            return lanes.mark(Lane.UPLOAD)

        try:
            # For the memory of the buffers, and for state that the last walk is still copying back.
            lanes.wait(Lane.UPLOAD, lanes.mark(Lane.CURRENT))
            filled = upload(0)
            for number, portion in enumerate(portions):
                lanes.wait(Lane.CURRENT, filled)
                if number + 1 < len(portions):
                    filled = upload(number + 1)
                yield portion.part, portion.states
                lanes.wait(Lane.DOWNLOAD, lanes.mark(Lane.CURRENT))
                for on_device, on_host in portion.pairs:
                    lanes.copy(Lane.DOWNLOAD, on_host, on_device)
                emptied.append(lanes.mark(Lane.DOWNLOAD))
        finally:  # also if a step failed: the buffers die
            lanes.wait(Lane.CURRENT, lanes.mark(Lane.UPLOAD))
            lanes.wait(Lane.CURRENT, lanes.mark(Lane.DOWNLOAD))


class _Portion(NamedTuple):
    """States that are stepped together.

    Attributes:
        part: which ones.
        states: what they are on the device.
        pairs: large tensors, on the device and on the host.
    """

    part: slice
    states: list[dict[str, Tensor]]
    pairs: list[tuple[Tensor, Tensor]]


def _lay_out(states: Sequence[Mapping[str, Tensor]], lanes: Transfers[Any]) -> list[_Portion]:
    """Allocates the buffers, each as large as its largest portion, and says what is where."""
    parts = batches(states)
    needs = [sum(map(_padded, _large(states[part]))) for part in parts]
    sizes = [max(needs[first::BUFFERS], default=0) for first in range(BUFFERS)]
    buffers = lanes.device_empty(sum(sizes)).split(sizes)
    return [
        _place(part, states[part], buffers[number % BUFFERS]) for number, part in enumerate(parts)
    ]


def _place(part: slice, states: Sequence[Mapping[str, Tensor]], buffer: Tensor) -> _Portion:
    portion, start = _Portion(part, [], []), 0
    for state in states:
        placed = dict(state)
        for name, tensor in state.items():
            if _is_large(tensor):
                flat = buffer[start : start + tensor.nbytes].view(tensor.dtype)
                placed[name] = flat.view(tensor.shape)
                portion.pairs.append((placed[name], tensor))
                start += _padded(tensor)
        portion.states.append(placed)
    return portion


def _large(states: Sequence[Mapping[str, Tensor]]) -> Iterator[Tensor]:
    for state in states:
        yield from filter(_is_large, state.values())


def _is_large(tensor: Tensor) -> bool:
    return tensor.numel() >= MIN_PAGED_SIZE


def _padded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
