"""State in memory-mapped files, so that it may exceed the memory of the machine.

The operating system moves pages between memory and file as it sees fit; this module tells it what
comes next and what is done. Each tensor has a file of its own, which loses its name as soon as it
is mapped: the system gives the space back when the tensor dies, however the process ends.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MIN_PAGED_SIZE = 100_000
"""Elements from which a tensor is worth a file; bitsandbytes draws the same line."""

BATCH_BYTES = 16 << 20
"""State that is stepped together, unless a single parameter has more."""

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14, which Python does not name

_MAPPINGS: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
"""Living mappings by address: advice to any other memory could destroy its content."""


class Paged(NamedTuple):
    """Memory-mapped files of their own for large tensors of parameters on the CPU.

    Attributes:
        directory: where the files are; None for the system's temporary directory.
    """

    directory: str | None

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a tensor, in a file if it is large.

        Raises:
            OSError: if the file system has no room for it. Room that is there is reserved.
        """
        size = math.prod(shape)
        if size < MIN_PAGED_SIZE:
            return torch.empty(shape, dtype=dtype, device=device)
        mapping = _map_new_file(size * dtype.itemsize, self.directory)
        tensor = torch.frombuffer(mapping, dtype=dtype)  # keeps the mapping alive
        _MAPPINGS[tensor.data_ptr()] = mapping
        return tensor.view(shape)

    def settle(self, tensor: Tensor) -> Tensor:
        """Returns a tensor of the same content, in a file if it is large."""
        if is_paged(tensor):
            return tensor
        return self.empty(tuple(tensor.shape), tensor.dtype, tensor.device).copy_(tensor)

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Takes tensors out of the process; the system writes what has changed to the files."""
        _advise(tensors, mmap.MADV_DONTNEED)

    def synchronize(self) -> None:
        """Has nothing to wait for."""

    def walk(
        self, states: Sequence[Mapping[str, Tensor]]
    ) -> Iterator[tuple[slice, Sequence[Mapping[str, Tensor]]]]:
        """Yields states in portions of about `BATCH_BYTES`, and reads the next one meanwhile."""
        parts = batches(states)
        for number, batch in enumerate(parts):
            for following in parts[number + 1 : number + 2]:
                _advise(_tensors(states[following]), mmap.MADV_WILLNEED)
            # One request instead of a page fault for every 4 KiB: a third of the time.
            _advise(_tensors(states[batch]), _POPULATE_WRITE)
            yield batch, states[batch]
            self.release(_tensors(states[batch]))


def is_paged(tensor: Tensor) -> bool:
    """Whether a tensor is the memory of a mapped file."""
    return tensor.device.type == "cpu" and tensor.data_ptr() in _MAPPINGS


def batches(states: Sequence[Mapping[str, Tensor]]) -> list[slice]:
    """Portions of states, in order: about `BATCH_BYTES` each, but at least one state."""
    parts, start, total = [], 0, 0
    for index, state in enumerate(states):
        size = sum(tensor.nbytes for tensor in state.values())
        if total + size > BATCH_BYTES and index > start:
            parts.append(slice(start, index))
            start, total = index, 0
        total += size
    return [*parts, slice(start, len(states))]


def _map_new_file(size: int, directory: str | None) -> mmap.mmap:
    if not hasattr(os, "posix_fallocate"):
        raise NotImplementedError(
            "placement='paged' needs posix_fallocate, which this system lacks"
        )
    descriptor, path = tempfile.mkstemp(prefix="kq-optim-", dir=directory)
    try:
        _reserve(descriptor, size, os.path.dirname(path))
        mapping = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
        os.unlink(path)
    mapping.madvise(mmap.MADV_SEQUENTIAL)
    return mapping


def _reserve(descriptor: int, size: int, directory: str) -> None:
    """Without room, writing to the mapping would end the process with a bus error."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"no room for {size} bytes of paged optimizer state ({os.strerror(error.errno)}); "
            "choose another paged_directory",
            directory,
        ) from None


def _tensors(states: Sequence[Mapping[str, Tensor]]) -> Iterator[Tensor]:
    for state in states:
        yield from state.values()


def _advise(tensors: Iterable[Tensor], advice: int) -> None:
    for tensor in tensors:
        mapping = _MAPPINGS.get(tensor.data_ptr())
        if mapping is None:
            continue
        try:
            mapping.madvise(advice)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel that does not know this advice
                raise
