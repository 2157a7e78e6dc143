"""The tensors of one call: guarded, poisoned, and read back.

Outputs are poisoned before the call, so that an element that is not written shows. What lies around
a tensor is a guard page on one side (see `Placement`) and guard bytes everywhere else; those of
inputs read as NaN (or as the highest code), which spoils a result that depends on them. Inputs can
only be read during the call, so that even a write that is undone shows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kq_conformance import pages
from kq_conformance.floats import Array, Stored, bits_dtype
from kq_conformance.subject import REFUSALS, ContractBreachError, Outputs, Placement

__all__ = ["Arena", "ask"]

_TORCH = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int32": torch.int32,
    "bool": torch.bool,
}
_MARGIN = 256  # guard bytes on either side: four vector registers of the widest instruction set
_ALIGNMENT = 64
_GAP = 5  # elements between rows that lie apart: odd, so that no row is aligned like the first
_POISON = 0xFF  # NaN in each float format, the highest code in bytes
_CANARY = 0xA5  # around outputs: different from the poison, so that a memset over both is seen


@dataclass(frozen=True, eq=False)
class _Memory:
    """A tensor and the bytes it lies in.

    Attributes:
        name: of the argument.
        dtype: as in `Stored`.
        region: the pages, on the host.
        start: where the tensor begins in the region, in bytes.
        stop: where it ends.
        values: the elements, as bit patterns [shape] in the region (rows may lie apart).
        initial: what they were before the call; None for an output.
        guard: the byte around them.
        tensor: what the backend gets: the same memory, or a copy of it on another device.
        device_bytes: all bytes of the copy; None on the processor.
    """

    name: str
    dtype: str
    region: pages.Region
    start: int
    stop: int
    values: Array
    initial: Stored | None
    guard: int
    written: bool
    tensor: torch.Tensor
    device_bytes: torch.Tensor | None


class Arena:
    """Places the tensors of one call.

    Args:
        device: torch device type.
        placement: where tensors lie in their memory.
    """

    def __init__(self, device: str, placement: Placement) -> None:
        self._device = device
        self._placement = placement
        self._memories: list[_Memory] = []

    def read(self, name: str, stored: Stored, *, rows: bool = False) -> torch.Tensor:
        """An input; `rows`: the contract lets its rows lie apart."""
        return self._place(name, stored.bits.shape, stored.dtype, stored, rows=rows)

    def write(self, name: str, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """An output."""
        return self._place(name, shape, dtype, None, written=True)

    def update(self, name: str, stored: Stored) -> torch.Tensor:
        """An input that is overwritten with the result."""
        return self._place(name, stored.bits.shape, stored.dtype, stored, written=True)

    def _place(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        initial: Stored | None,
        *,
        rows: bool = False,
        written: bool = False,
    ) -> torch.Tensor:
        bits = bits_dtype(dtype)
        item = bits.itemsize
        apart = rows and self._placement is Placement.STRIDED and math.prod(shape) > 0
        step = shape[1] + _GAP if apart else 0
        extent = (shape[0] - 1) * step + shape[1] if apart else math.prod(shape)
        size = extent * item
        region = pages.Region(2 * _MARGIN + _ALIGNMENT + size)
        start = self._start(region, size, item)
        guard = _CANARY if written else _POISON
        region.bytes[: start + size if apart else start] = guard
        region.bytes[start + size :] = guard
        strides = (step * item, item) if apart else None
        values: Array = np.ndarray(
            tuple(shape), bits, region.bytes.data, offset=start, strides=strides
        )
        if initial is None:
            region.bytes[start : start + size] = _POISON
        else:
            np.copyto(values, initial.bits)
        host = torch.from_numpy(region.bytes)
        copy = None if self._device == "cpu" else host.to(self._device)
        flat = (host if copy is None else copy)[start : start + size].view(_TORCH[dtype])
        tensor = flat.as_strided(shape, (step, 1)) if apart else flat.view(tuple(shape))
        self._memories.append(
            _Memory(
                name, dtype, region, start, start + size, values, initial, guard, written,
                tensor, copy,
            )
        )  # fmt: skip
        return tensor

    def _start(self, region: pages.Region, size: int, item: int) -> int:
        if self._placement is Placement.BEFORE:
            return 0
        if self._placement is Placement.OFFSET:
            return _MARGIN // _ALIGNMENT * _ALIGNMENT + item
        return region.size - size

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around the call of the backend: outside of the tensors nothing may be touched."""
        watched = [(each.region, each.written) for each in self._memories]
        on_host = self._device == "cpu"
        with pages.armed(watched if on_host else []):
            yield
        if not on_host:
            for each in self._memories:
                assert each.device_bytes is not None
                each.region.bytes[:] = each.device_bytes.cpu().numpy()

    def results(self) -> Outputs:
        """Check all memory, and return what was written, without copying it.

        Raises:
            ContractBreachError: naming the tensor and the byte.
        """
        self._check_surroundings()
        return {
            each.name: Stored(each.values, each.dtype) for each in self._memories if each.written
        }

    def check_untouched(self) -> None:
        """After a refusal: nothing was written.

        Raises:
            ContractBreachError: naming the tensor.
        """
        self._check_surroundings()
        for each in self._memories:
            if each.initial is None:
                same = bool((each.region.bytes[each.start : each.stop] == _POISON).all())
            else:
                same = np.array_equal(each.values, each.initial.bits)
            if not same:
                raise ContractBreachError(
                    f"the call was refused after {each.name} had been written"
                )

    def _check_surroundings(self) -> None:
        for each in self._memories:
            if each.region.faults:
                raise ContractBreachError(_touched(each, each.region.faults[0]))
            for side in (slice(0, each.start), slice(each.stop, None)):
                changed = np.flatnonzero(each.region.bytes[side] != each.guard)
                if changed.size:
                    offset = int(changed[0]) + (side.start or 0)
                    raise ContractBreachError(_written(each, offset))
            if not each.written and (first := _difference(each)) is not None:
                raise ContractBreachError(f"the input {each.name} was changed at byte {first}")


def ask(arena: Arena, call: Callable[..., None], *args: Any, **options: Any) -> Outputs:
    """Run a call on tensors of the arena, and check the memory after it."""
    try:
        with arena.guarded():
            call(*args, **options)
    except REFUSALS:
        arena.check_untouched()
        raise
    return arena.results()


def _difference(memory: _Memory) -> int | None:
    """The first byte of an input that is not what it was; None where pages forbade a write."""
    if pages.AVAILABLE and memory.device_bytes is None:
        return None
    assert memory.initial is not None
    changed = np.argwhere(memory.values != memory.initial.bits)
    if not changed.size:
        return None
    place = np.ravel_multi_index(tuple(changed[0]), memory.values.shape)
    return int(place) * memory.values.itemsize


def _place_of(memory: _Memory, offset: int) -> str:
    """Where a byte of the region is, as seen from the tensor."""
    if offset >= memory.stop:
        return f"byte {offset - memory.stop + 1} past its end"
    if offset < memory.start:
        return f"byte {memory.start - offset} before its start"
    return f"byte {offset - memory.start}"


def _touched(memory: _Memory, offset: int) -> str:
    if memory.start <= offset < memory.stop:
        return f"the input {memory.name} was written, first at {_place_of(memory, offset)}"
    return (
        f"memory outside of {memory.name} ({memory.stop - memory.start} bytes) was read or written,"
        f" first at {_place_of(memory, offset)}"
    )


def _written(memory: _Memory, offset: int) -> str:
    return (
        f"memory outside of {memory.name} ({memory.stop - memory.start} bytes) was written,"
        f" first at {_place_of(memory, offset)}"
    )
