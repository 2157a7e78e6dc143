"""The only module that knows torch: NumPy arrays in, a backend's tensors, NumPy arrays out.

Every tensor lies in a buffer of its own between two guard zones. Outputs are poisoned before the
call, so that an element that is not written shows; inputs are compared after it, so that a write
into them shows; and data start one element past a 64-byte boundary, so that a kernel which needs
aligned memory does not get it. Guard zones of inputs hold bytes that read as NaN (or as the highest
code), which spoils a result that depends on memory outside of the input.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from kq_conformance.floats import FORMATS, Stored
from kq_conformance.reference import Hyper, count_blocks
from kq_conformance.subject import ContractBreachError, Outputs, StoredScales

__all__ = ["Adapter", "torch_version"]

_TORCH = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "uint8": torch.uint8,
}
_GUARD = 256  # bytes before and after: four vector registers of the widest instruction set
_ALIGNMENT = 64
_POISON = 0xFF  # NaN in each float format, the highest code in bytes
_CANARY = 0xA5  # around outputs: different from the poison, so that a memset over both is seen


def torch_version() -> str:
    """The version of torch, for the report."""
    return str(torch.__version__)


class _Scales(NamedTuple):
    """What the backend contract calls `Scales`."""

    absmax: torch.Tensor
    nested_absmax: torch.Tensor | None = None
    nested_code: torch.Tensor | None = None
    offset: torch.Tensor | None = None


class _Memory(NamedTuple):
    """A tensor, the bytes it lies in, and what the bytes were before the call."""

    name: str
    tensor: torch.Tensor
    buffer: torch.Tensor
    before: torch.Tensor
    start: int
    stop: int
    dtype: str
    written: bool


class _Arena:
    """The tensors of one call."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._memories: list[_Memory] = []

    def _place(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        data: bytes | None,
        guard: int,
        written: bool,
    ) -> torch.Tensor:
        kind = _TORCH[dtype]
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        raw = torch.full((_ALIGNMENT + 2 * _GUARD + size,), guard, dtype=torch.uint8)
        buffer = raw.to(self._device)
        misfit = -buffer.data_ptr() % _ALIGNMENT
        start = misfit + _GUARD + kind.itemsize
        stop = start + size
        if size:
            payload = (
                np.full(size, _POISON, np.uint8) if data is None else np.frombuffer(data, np.uint8)
            )
            buffer[start:stop] = torch.from_numpy(payload.copy()).to(self._device)
        tensor = buffer[start:stop].view(kind).view(tuple(shape))
        memory = _Memory(name, tensor, buffer, buffer.clone(), start, stop, dtype, written)
        self._memories.append(memory)
        return tensor

    def read(self, name: str, stored: Stored) -> torch.Tensor:
        """An input."""
        data = stored.bits.tobytes()
        return self._place(name, stored.bits.shape, stored.dtype, data, _POISON, written=False)

    def write(self, name: str, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """An output."""
        return self._place(name, shape, dtype, None, _CANARY, written=True)

    def update(self, name: str, stored: Stored) -> torch.Tensor:
        """An input that is overwritten with the result."""
        data = stored.bits.tobytes()
        return self._place(name, stored.bits.shape, stored.dtype, data, _CANARY, written=True)

    def results(self) -> Outputs:
        """Check all memory, and return what was written.

        Raises:
            ContractBreachError: naming the tensor and the byte offset of the first breach.
        """
        for memory in self._memories:
            changed = memory.buffer != memory.before
            if memory.written:
                changed[memory.start : memory.stop] = False
            places = changed.nonzero()
            if len(places):
                offset = int(places[0]) - memory.start
                raise ContractBreachError(_breach(memory, offset))
        return {each.name: _load(each) for each in self._memories if each.written}


def _breach(memory: _Memory, offset: int) -> str:
    size = memory.stop - memory.start
    if not memory.written and 0 <= offset < size:
        return f"the input {memory.name} was changed at byte {offset}"
    where = f"{offset - size + 1} past its end" if offset >= size else f"{-offset} before its start"
    return f"memory outside of {memory.name} ({size} bytes) was written, first at byte {where}"


def _load(memory: _Memory) -> Stored:
    bits_dtype = FORMATS[memory.dtype].bits_dtype if memory.dtype in FORMATS else np.dtype(np.uint8)
    raw = memory.buffer[memory.start : memory.stop].cpu().numpy().tobytes()
    bits = np.frombuffer(raw, dtype=bits_dtype).reshape(tuple(memory.tensor.shape)).copy()
    return Stored(bits, memory.dtype)


class Adapter:
    """Runs a backend's methods on guarded tensors; implements `kq_conformance.subject.Subject`.

    Args:
        backend: an object that fulfills the backend contract.
        device: torch device type of all tensors.

    Raises:
        ValueError: if torch cannot put a tensor there.
    """

    def __init__(self, backend: Any, device: str = "cpu") -> None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device {device!r} cannot hold tensors: {reason}") from error
        self._backend = backend
        self._device = device

    def _scales(self, arena: _Arena, scales: StoredScales) -> _Scales:
        names = StoredScales._fields
        placed = (
            None if each is None else arena.read(name, each)
            for name, each in zip(names, scales, strict=True)
        )
        return _Scales(*placed)  # type: ignore[arg-type]  # the first field is never None

    def quantize_4bit(self, x: Stored, *, quant_type: str, blocksize: int) -> Outputs:
        """See `Subject.quantize_4bit`."""
        rows, cols = x.bits.shape
        arena = _Arena(self._device)
        self._backend.quantize_4bit(
            arena.read("A", x),
            arena.write("packed", (rows, (cols + 1) // 2), "uint8"),
            arena.write("absmax", (rows, count_blocks(cols, blocksize)), "float32"),
            quant_type=quant_type,
            blocksize=blocksize,
        )
        return arena.results()

    def dequantize_4bit(
        self,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        dtype: str,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.dequantize_4bit`."""
        arena = _Arena(self._device)
        self._backend.dequantize_4bit(
            arena.read("packed", packed),
            self._scales(arena, scales),
            arena.write("out", (packed.bits.shape[0], cols), dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )
        return arena.results()

    def quantize_blockwise(self, x: Stored, code: Stored, *, blocksize: int) -> Outputs:
        """See `Subject.quantize_blockwise`."""
        rows, cols = x.bits.shape
        arena = _Arena(self._device)
        self._backend.quantize_blockwise(
            arena.read("A", x),
            arena.read("code", code),
            arena.write("codes", (rows, cols), "uint8"),
            arena.write("absmax", (rows, count_blocks(cols, blocksize)), "float32"),
            blocksize=blocksize,
        )
        return arena.results()

    def dequantize_blockwise(
        self, codes: Stored, code: Stored, absmax: Stored, dtype: str, *, blocksize: int
    ) -> Outputs:
        """See `Subject.dequantize_blockwise`."""
        arena = _Arena(self._device)
        self._backend.dequantize_blockwise(
            arena.read("codes", codes),
            arena.read("code", code),
            arena.read("absmax", absmax),
            arena.write("out", codes.bits.shape, dtype),
            blocksize=blocksize,
        )
        return arena.results()

    def linear_4bit(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit`."""
        arena = _Arena(self._device)
        self._backend.linear_4bit(
            arena.read("x", x),
            arena.read("packed", packed),
            self._scales(arena, scales),
            None if bias is None else arena.read("bias", bias),
            arena.write("out", (x.bits.shape[0], packed.bits.shape[0]), x.dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )
        return arena.results()

    def linear_4bit_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_backward`."""
        arena = _Arena(self._device)
        self._backend.linear_4bit_backward(
            arena.read("grad", grad),
            arena.read("packed", packed),
            self._scales(arena, scales),
            arena.write("out", (grad.bits.shape[0], cols), grad.dtype),
            quant_type=quant_type,
            blocksize=blocksize,
        )
        return arena.results()

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        codes: Sequence[Stored],
        absmax: Sequence[Stored],
        code_maps: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
    ) -> Outputs:
        """See `Subject.optimizer_step_8bit`."""
        arena = _Arena(self._device)
        self._backend.optimizer_step_8bit(
            rule,
            [arena.update(f"params[{i}]", each) for i, each in enumerate(params)],
            [arena.read(f"grads[{i}]", each) for i, each in enumerate(grads)],
            [arena.update(f"codes[{i}]", each) for i, each in enumerate(codes)],
            [arena.update(f"absmax[{i}]", each) for i, each in enumerate(absmax)],
            [arena.read(f"code_maps[{i}]", each) for i, each in enumerate(code_maps)],
            list(steps),
            **asdict(hyper),
        )
        return arena.results()

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        states: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
    ) -> Outputs:
        """See `Subject.optimizer_step_32bit`."""
        arena = _Arena(self._device)
        self._backend.optimizer_step_32bit(
            rule,
            [arena.update(f"params[{i}]", each) for i, each in enumerate(params)],
            [arena.read(f"grads[{i}]", each) for i, each in enumerate(grads)],
            [arena.update(f"states[{i}]", each) for i, each in enumerate(states)],
            list(steps),
            **asdict(hyper),
        )
        return arena.results()

    @contextmanager
    def threads(self, number: int) -> Iterator[None]:
        """Set torch's number of threads inside the context, and restore it."""
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)
