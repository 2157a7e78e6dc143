"""Guard pages: what is touched outside of a region is noted, and the process goes on."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from kq_conformance.pages import AVAILABLE, PAGE, Region, armed

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this system has no guard pages")


def read(address):
    return ctypes.c_uint8.from_address(address).value


def write(address):
    ctypes.c_uint8.from_address(address).value = 1


def touch(region, offset, access, *, writable=True):
    with armed([(region, writable)]):
        access(region.start + offset)
    return region.faults


def test_sizes_are_pages():
    assert [Region(size).size for size in (0, 1, PAGE, PAGE + 1)] == [PAGE, PAGE, PAGE, 2 * PAGE]


@pytest.mark.parametrize("access", [read, write])
@pytest.mark.parametrize("offset", [-1, -PAGE, PAGE, 2 * PAGE - 1])
def test_outside_is_noted(offset, access):
    assert touch(Region(PAGE), offset, access) == [offset]


@pytest.mark.parametrize("offset", [0, PAGE - 1])
def test_inside_is_free(offset):
    region = Region(PAGE)
    assert touch(region, offset, read) == []
    assert touch(region, offset, write) == []
    assert region.bytes[offset] == 1


def test_write_to_an_input_is_noted_even_if_it_is_undone():
    region = Region(PAGE)
    with armed([(region, False)]):
        write(region.start + 7)
        ctypes.c_uint8.from_address(region.start + 7).value = 0
    assert region.faults == [7]
    assert not region.bytes.any()


def test_reading_an_input_is_free():
    assert touch(Region(PAGE), 3, read, writable=False) == []


def test_regions_are_told_apart():
    regions = [Region(PAGE) for _ in range(5)]
    with armed([(region, True) for region in regions]):
        read(regions[3].start - 2)
        read(regions[1].start + PAGE + 2)
    assert [region.faults for region in regions] == [[], [PAGE + 2], [], [-2], []]


def test_unarmed_pages_are_open_again():
    region = Region(PAGE)
    touch(region, -1, read)
    region.bytes[:] = 5
    assert read(region.start + PAGE) == 0


def test_threads_of_native_code_are_seen():
    """A fault may happen in a thread that Python does not know."""
    region = Region(PAGE)
    libc = ctypes.CDLL(None)
    entry = ctypes.cast(libc.strlen, ctypes.c_void_p)
    thread = ctypes.c_size_t()
    with armed([(region, True)]):
        libc.pthread_create(ctypes.byref(thread), None, entry, ctypes.c_void_p(region.start + PAGE))
        libc.pthread_join(thread, None)
    assert region.faults
    assert PAGE <= region.faults[0] < PAGE + 64


def test_other_faults_end_the_process():
    code = (
        "import ctypes; from kq_conformance.pages import *; region = Region(1)\n"
        "with armed([(region, True)]): ctypes.string_at(8)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode < 0


def test_handlers_that_others_put_in_place_are_theirs_again():
    """Between two calls somebody takes the signal, as the faulthandler of a test run does."""
    code = (
        "import ctypes, faulthandler, sys; from kq_conformance.pages import *; region = Region(1)\n"
        "def touch():\n"
        "    with armed([(region, True)]): ctypes.c_uint8.from_address(region.start - 1).value\n"
        "touch(); faulthandler.enable(); touch(); print(region.faults, flush=True)\n"
        "ctypes.string_at(8)"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode < 0
    assert ended.stdout == b"[-1, -1]\n"
    assert b"Segmentation fault" in ended.stderr  # written by the faulthandler


def test_memory_outlives_its_region():
    view = Region(PAGE).bytes
    view[:] = 3
    assert np.count_nonzero(view) == PAGE
