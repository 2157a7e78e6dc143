"""Backends that do not answer: they raise, hang, or take the process with them.

What ends or stops a process happens at one block size only, so that the other cases can be asked.
"""

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference_backend import ReferenceBackend
from kq_conformance.runner import Verdict

__all__: list[str] = []

_LARGE = 4096
_CASE = f"quantize_4bit/nf4/b{_LARGE}/float32/random"


class OtherAtLargeBlocks(ReferenceBackend):
    """No mistake: there is a way of its own for blocks of 4096."""

    def large(self) -> None:
        """What is done before such a block is quantized."""

    def quantize_4bit(
        self, A: Any, packed: Any, absmax: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """See `ReferenceBackend.quantize_4bit`."""
        if blocksize == _LARGE:
            self.large()
        super().quantize_4bit(A, packed, absmax, quant_type=quant_type, blocksize=blocksize)


@killed_by(_CASE, Verdict.OVER_CLAIM)
class ClaimsTooMuch(OtherAtLargeBlocks):
    """Block size 4096 is declared, and refused."""

    def large(self) -> None:
        raise NotImplementedError(f"blocksize {_LARGE}")


@killed_by(_CASE, Verdict.CRASH)
class RaisesSomethingElse(OtherAtLargeBlocks):
    """A lookup fails inside the backend."""

    def large(self) -> None:
        raise KeyError(_LARGE)


@killed_by(_CASE, Verdict.TIMEOUT)
class Hangs(OtherAtLargeBlocks):
    """The call never comes back."""

    def large(self) -> None:
        while True:
            time.sleep(1)


@killed_by(_CASE, Verdict.CRASH)
class Exits(OtherAtLargeBlocks):
    """An error path ends the process."""

    def large(self) -> None:
        os._exit(1)


@killed_by(_CASE, Verdict.CRASH)
class ExitsAsIfAllWereWell(OtherAtLargeBlocks):
    """An error path ends the process with exit code 0."""

    def large(self) -> None:
        os._exit(0)


@killed_by(_CASE, Verdict.CRASH)
class RaisesSystemExit(OtherAtLargeBlocks):
    """An error path raises SystemExit, which most handlers of exceptions let pass."""

    def large(self) -> None:
        sys.exit(0)


@killed_by(_CASE, Verdict.CRASH)
class ReadsFromNowhere(OtherAtLargeBlocks):
    """A null pointer is followed."""

    def large(self) -> None:
        ctypes.string_at(0)


@killed_by("linear_4bit/nf4/b64/float32/m0-n16-k64", Verdict.CRASH)
class CrashesOnEmptyInputs(ReferenceBackend):
    """A share of the work is divided by the number of rows."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        assert 1 // x.shape[0] >= 0
        super().linear_4bit(x, packed, scales, bias, out, **o)


@killed_by("optimizer_step_8bit/adam/float32/plain", Verdict.CRASH)
class CrashesOnEmptyTensors(ReferenceBackend):
    """An empty tensor in the list of parameters divides by its size."""

    def optimizer_step_8bit(self, rule: str, params: Sequence[Any], *rest: Any, **o: Any) -> None:
        assert all(1 // each.numel() >= 0 for each in params)
        super().optimizer_step_8bit(rule, params, *rest, **o)
