"""Memory whose ends the processor guards: a byte outside is a fault, and faults are noted.

A region is a run of pages between two that cannot be touched. While it is armed, an access to one
of those, or a write to a region that is only to be read, raises SIGSEGV; the handler notes the
address, opens the page and lets the instruction go on, so that the call ends and the breach can be
reported. A fault anywhere else is none of ours: the process dies of it, as it would without us.

Where a system has no `mprotect`, or its signals are laid out in a way not known here, there is no
guard: `AVAILABLE` is false, and only writes are seen, by the bytes around a tensor.
"""

import ctypes
import mmap
import platform
import signal
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kq_conformance.floats import Array

__all__ = ["AVAILABLE", "Region", "armed"]

PAGE = mmap.PAGESIZE
# glibc and musl on these processors agree on the layout of struct sigaction and of siginfo_t.
AVAILABLE = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")

_NONE, _READ, _WRITE = 0, 1, 2  # PROT_NONE, PROT_READ, PROT_WRITE
_SA_SIGINFO = 4
_ADDRESS_IN_SIGINFO = 16


class Region:
    """Pages for one tensor, with a guard page on either side.

    Args:
        size: bytes wanted; rounded up to pages.
    """

    def __init__(self, size: int) -> None:
        self.size = max(-(-size // PAGE), 1) * PAGE
        self._map = mmap.mmap(-1, self.size + 2 * PAGE)
        whole: Array = np.frombuffer(self._map, dtype=np.uint8)
        self.bytes: Array = whole[PAGE : PAGE + self.size]
        """uint8 [size], between the guard pages; keeps the memory alive."""
        self.start = self.bytes.ctypes.data
        self.faults: list[int] = []
        """Addresses that were touched and should not have been, relative to `start`."""

    @property
    def low(self) -> int:
        """Address of the first guard page."""
        return self.start - PAGE

    @property
    def high(self) -> int:
        """Address after the last guard page."""
        return self.start + self.size + PAGE

    def arm(self, *, writable: bool) -> None:
        """Close the guard pages, and the pages between to writing unless `writable`."""
        _protect(self.low, PAGE, _NONE)
        _protect(self.start + self.size, PAGE, _NONE)
        if not writable:
            _protect(self.start, self.size, _READ)

    def disarm(self) -> None:
        """Open all pages."""
        _protect(self.low, self.high - self.low, _READ | _WRITE)


@contextmanager
def armed(regions: Sequence[tuple[Region, bool]]) -> Iterator[None]:
    """Guard regions during a call.

    Args:
        regions: each with whether it may be written. `Region.faults` then holds what happened.
    """
    if not AVAILABLE:
        yield
        return
    ordered = sorted((region for region, _ in regions), key=lambda region: region.low)
    _trap.set(ordered)
    try:
        for region, writable in regions:
            region.arm(writable=writable)
        yield
    finally:
        for region in ordered:
            region.disarm()
        _trap.lift()


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint8 * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Trap:
    """The handler of SIGSEGV, in place during armed calls only.

    Between calls others put their own in place, as the faulthandler of a test run does.
    """

    def __init__(self) -> None:
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._handler = kind(self._handle)  # kept: ctypes must not collect it
        self._action = _SigAction(flags=_SA_SIGINFO)
        self._action.handler = ctypes.cast(self._handler, ctypes.c_void_p)
        self._regions: Sequence[Region] = ()
        self._lows: list[int] = []
        self._before = _SigAction()

    def set(self, regions: Sequence[Region]) -> None:
        """Note faults in these regions; they ascend by address."""
        self._lows = [region.low for region in regions]
        self._regions = regions
        _libc.sigaction(signal.SIGSEGV, ctypes.byref(self._action), ctypes.byref(self._before))

    def lift(self) -> None:
        """Give the signal back to whoever had it."""
        _libc.sigaction(signal.SIGSEGV, ctypes.byref(self._before), None)
        self._lows, self._regions = [], ()

    def _handle(self, number: int, info: int, context: int) -> None:
        del context
        address = ctypes.c_uint64.from_address(info + _ADDRESS_IN_SIGINFO).value
        index = bisect_right(self._lows, address) - 1
        region = self._regions[index] if index >= 0 else None
        if region is None or address >= region.high:
            # Not ours: what was there before us handles it when the instruction faults again.
            _libc.sigaction(number, ctypes.byref(self._before), None)
            return
        region.faults.append(address - region.start)
        _protect(address // PAGE * PAGE, PAGE, _READ | _WRITE)


def _protect(address: int, size: int, protection: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        raise OSError(ctypes.get_errno(), f"mprotect of {size} bytes failed")


_libc: Any = ctypes.CDLL(None, use_errno=True) if AVAILABLE else None
_trap = _Trap()
