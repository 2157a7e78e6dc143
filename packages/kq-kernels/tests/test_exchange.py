"""Arrays read through DLPack's C exchange table, offered by a type made here from ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

import kq_kernels

CPU, CUDA = 1, 2
CODES = {"i": 0, "u": 1, "f": 2}


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


DESCRIBE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))


class Table(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("managed_from_object", ctypes.c_void_p),
        ("object_from_managed", ctypes.c_void_p),
        ("describe", DESCRIBE),
        ("current_stream", ctypes.c_void_p),
    ]


@DESCRIBE
def describe(array: Described, out: ctypes.POINTER(DLTensor)) -> int:
    if array.fails:
        return -1
    ctypes.memmove(out, ctypes.byref(array.tensor), ctypes.sizeof(DLTensor))
    return 0


NAME = b"dlpack_exchange_api"
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def capsule(table: Table, name: bytes = NAME) -> object:
    return new_capsule(ctypes.addressof(table), name, None)


TABLE = Table(major=1, minor=3, describe=describe)


class Described:
    """A NumPy array that only the table can tell about."""

    __dlpack_c_exchange_api__ = capsule(TABLE)
    fails = False

    def __init__(self, array: np.ndarray, **changes: object) -> None:
        self.array = array
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        steps = [stride // array.itemsize for stride in array.strides]
        self.strides = (ctypes.c_int64 * array.ndim)(*steps)
        self.tensor = DLTensor(
            data=array.ctypes.data,
            device_type=CPU,
            ndim=array.ndim,
            code=CODES[array.dtype.kind],
            bits=8 * array.itemsize,
            lanes=1,
            shape=self.shape,
            strides=self.strides,
        )
        for name, value in changes.items():
            setattr(self.tensor, name, value)


ROWS, N, K = 2, 3, 64
RANDOM = np.random.default_rng(1)
X = RANDOM.standard_normal((ROWS, K), np.float32)
CODE_BYTES = RANDOM.integers(0, 256, (N, K // 2), np.uint8)
ABSMAX = RANDOM.random((N, 1), np.float32)
BIAS = RANDOM.standard_normal(N, np.float32)


def multiply(x: object, codes: object, absmax: object, bias: object) -> np.ndarray:
    out = np.zeros((ROWS, N), np.float32)
    kq_kernels.linear_4bit(x, codes, absmax, bias, out, ROWS, N, K, 64, "nf4")
    return out


EXPECTED = multiply(X, CODE_BYTES, ABSMAX, BIAS)


def test_arrays_that_describe_themselves() -> None:
    described = [Described(array) for array in (X, CODE_BYTES, ABSMAX, BIAS)]
    np.testing.assert_array_equal(multiply(*described), EXPECTED)


@pytest.mark.parametrize(
    "same",
    [
        lambda: Described(X[None, :, None]),
        lambda: Described(X, strides=None),
        lambda: Described(X[1:], data=X.ctypes.data),
        lambda: Described(X, data=X.ctypes.data - 64, byte_offset=64),
        lambda: Described(np.lib.stride_tricks.as_strided(X[:, None], strides=(256, 8, 4))),
    ],
    ids=["dimensions of one", "no strides", "by address", "offset", "stride of a dimension of one"],
)
def test_what_is_contiguous(same: Callable[[], Described]) -> None:
    x = same()
    if x.array.shape[0] == 1 and x.array.ndim == 2:
        x.shape[0] = ROWS
    np.testing.assert_array_equal(multiply(x, CODE_BYTES, ABSMAX, BIAS), EXPECTED)


WIDE = np.repeat(X, 2, axis=1)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (Described(WIDE[:, ::2]), TypeError, "x: expected a row-major contiguous array"),
        (Described(WIDE[:, :K]), TypeError, "x: expected a row-major contiguous array"),
        (Described(np.asfortranarray(X)), TypeError, "x: expected a row-major contiguous"),
        (Described(X, device_type=CUDA), TypeError, "x: expected .* array in CPU memory"),
        (Described(X, lanes=2), TypeError, "x: expected float32, bfloat16, float16, uint8 or"),
        (Described(X.astype(np.float64)), TypeError, "x: expected float32, .* with 64 bits"),
        (Described(CODE_BYTES), TypeError, "x: expected float32, bfloat16, float16, got uint8"),
        (Described(X[:1]), ValueError, "x: expected 128 elements, got 64"),
        (Described(X, data=None), ValueError, "x: address is null"),
    ],
)
def test_what_is_refused(x: Described, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        multiply(x, CODE_BYTES, ABSMAX, BIAS)


def test_an_empty_array_needs_no_address() -> None:
    x, out = Described(np.zeros((0, K), np.float32), data=None), np.zeros((0, N), np.float32)
    kq_kernels.linear_4bit(x, CODE_BYTES, ABSMAX, None, out, 0, N, K, 64, "nf4")


def test_results_must_tell_that_they_may_be_written() -> None:
    out = Described(np.zeros((ROWS, N), np.float32))
    with pytest.raises(TypeError, match="out: expected a row-major contiguous array"):
        kq_kernels.linear_4bit(X, CODE_BYTES, ABSMAX, BIAS, out, ROWS, N, K, 64, "nf4")


FUTURE = Table(major=2, older=ctypes.addressof(TABLE))
TABLES = {
    "a later version that knows this one": (FUTURE, NAME, True),
    "a later version": (Table(major=2), NAME, False),
    "an earlier version": (Table(major=0, describe=describe), NAME, False),
    "a table without the function": (Table(major=1), NAME, False),
    "another capsule": (TABLE, b"dltensor", False),
}


@pytest.mark.parametrize("name", TABLES)
def test_versions(name: str) -> None:
    table, tag, known = TABLES[name]
    kind = type("Kind", (Described,), {"__dlpack_c_exchange_api__": capsule(table, tag)})
    if known:
        np.testing.assert_array_equal(multiply(kind(X), CODE_BYTES, ABSMAX, BIAS), EXPECTED)
    else:
        with pytest.raises(
            TypeError, match=r"x: expected a row-major contiguous array.* got .*Kind"
        ):
            multiply(kind(X), CODE_BYTES, ABSMAX, BIAS)


def test_a_table_that_cannot_describe_its_array() -> None:
    """Then the other ways to read an array are tried."""
    x = Described(X)
    x.fails = True
    with pytest.raises(TypeError, match="x: expected a row-major contiguous array"):
        multiply(x, CODE_BYTES, ABSMAX, BIAS)

    class Both(Described):
        def __dlpack__(self, **options: object) -> object:
            return self.array.__dlpack__(**options)

    both = Both(X)
    both.fails = True
    np.testing.assert_array_equal(multiply(both, CODE_BYTES, ABSMAX, BIAS), EXPECTED)
