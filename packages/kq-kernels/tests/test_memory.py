"""No kernel touches a byte outside its arguments, and sizes are 64-bit."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import bfloat16
import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

PAGE = mmap.PAGESIZE


def against_guard_page(array: np.ndarray, side: str) -> np.ndarray:
    """A copy that ends (or begins) exactly at a page which may be neither read nor written."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = -(-array.nbytes // PAGE) + 2
    area = mmap.mmap(-1, pages * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for guard in (start, start + (pages - 1) * PAGE):
        if libc.mprotect(ctypes.c_void_p(guard), PAGE, 0) != 0:  # 0: PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE if side == "begin" else (pages - 1) * PAGE - array.nbytes
    out = np.frombuffer(area, array.dtype, array.size, offset).reshape(array.shape)
    out[...] = array
    return out


def exercise_strides(side: str) -> None:
    """Inputs whose rows lie apart, from the first to the last element against guard pages."""
    rng = np.random.default_rng(0)
    code = definition.dynamic_map(signed=True)
    for dtype in (np.float32, np.float16):
        for rows, cols, blocksize in [(2, 1, 32), (3, 31, 32), (5, 130, 64), (4, 128, 32)]:
            stride, shape = cols + 7, (rows, cols, blocksize)
            values = rng.standard_normal((rows - 1) * stride + cols).astype(dtype)
            x = against_guard_page(values, side)
            codes = np.zeros((rows, (cols + 1) // 2), np.uint8)
            absmax = np.zeros((rows, -(-cols // blocksize)), np.float32)
            kq_kernels.quantize_4bit(x, codes, absmax, *shape, "nf4", row_stride=stride)
            eight = np.zeros((rows, cols), np.uint8)
            kq_kernels.quantize_blockwise(x, code, eight, absmax, *shape, row_stride=stride)
            for m in (1, 3, 7, 20):
                y = np.zeros((m, rows), dtype)
                sizes = (m, rows, cols, blocksize, "nf4")
                x = against_guard_page(np.ones((m - 1) * stride + cols, dtype), side)
                kq_kernels.linear_4bit(x, codes, absmax, None, y, *sizes, row_stride=stride)
                grad = against_guard_page(np.ones((m - 1) * stride + rows, dtype), side)
                out = np.zeros((m, cols), dtype)
                kq_kernels.linear_4bit_backward(grad, codes, absmax, out, *sizes, row_stride=stride)


def exercise(side: str) -> None:
    """Every operation on shapes with tails of all kinds, with all arguments against guard pages."""
    rng = np.random.default_rng(0)

    def guarded(array: np.ndarray) -> np.ndarray:
        return against_guard_page(array, side)

    code = guarded(definition.dynamic_map(signed=True))
    unsigned = guarded(definition.dynamic_map(signed=False))
    offset = guarded(np.ones(1, np.float32))
    for dtype in (np.float32, np.float16):
        for rows, cols, blocksize in [
            (1, 1, 32),
            (3, 31, 32),
            (5, 130, 64),
            (2, 257, 64),
            (4, 128, 32),
        ]:
            per_row = -(-cols // blocksize)
            x = guarded(rng.standard_normal((rows, cols)).astype(dtype))
            codes = guarded(np.zeros((rows, (cols + 1) // 2), np.uint8))
            absmax = guarded(np.zeros((rows, per_row), np.float32))
            shape = (rows, cols, blocksize)
            kq_kernels.quantize_4bit(x, codes, absmax, *shape, "nf4")
            kq_kernels.dequantize_4bit(codes, absmax, x, *shape, "nf4")
            eight = guarded(np.zeros((rows, cols), np.uint8))
            kq_kernels.quantize_blockwise(x, code, eight, absmax, *shape)
            kq_kernels.dequantize_blockwise(eight, code, absmax, x, *shape)
            scale_codes = guarded(np.zeros((rows, per_row), np.uint8))
            nested = (guarded(np.ones(-(-rows * per_row // 256), np.float32)), code, offset)
            kq_kernels.dequantize_4bit(codes, scale_codes, x, *shape, "nf4", *nested)
            bias = guarded(np.zeros(rows, dtype))
            for m in (1, 3, 7, 20):
                wide = guarded(rng.standard_normal((m, cols)).astype(dtype))
                y = guarded(np.zeros((m, rows), dtype))
                sizes = (m, rows, cols, blocksize, "nf4")
                kq_kernels.linear_4bit(wide, codes, absmax, bias, y, *sizes)
                kq_kernels.linear_4bit(wide, codes, scale_codes, None, y, *sizes, *nested)
                kq_kernels.linear_4bit_backward(y, codes, absmax, wide, *sizes)
        for size in (1, 255, 256, 300):
            values = [guarded(np.ones(size, dtype)) for _ in range(2)]
            codes = [guarded(np.zeros(size, np.uint8)) for _ in range(2)]
            absmax = [guarded(np.zeros(-(-size // 256), np.float32)) for _ in range(2)]
            for maps in ([code, code], [code, unsigned]):
                kq_kernels.optimizer_step_8bit(
                    "adam",
                    values[:1],
                    values[1:],
                    codes,
                    absmax,
                    maps,
                    [1],
                    [0.9, 0.99, 1e-8],
                    1e-3,
                )
            states = [guarded(np.zeros(size, np.float32)) for _ in range(2)]
            kq_kernels.optimizer_step_32bit(
                "lamb", values[:1], values[1:], states, [1], [0.9, 0.99, 1e-8, 1], 1e-3
            )


def exercise_bf16(side: str) -> None:
    """Products in bfloat16, which have kernels of their own."""

    def guarded(*shape: int) -> tuple[int, int, str]:
        kept.append(against_guard_page(np.ones(shape, np.uint16), side))
        return bfloat16.argument(kept[-1])

    kept: list[np.ndarray] = []
    for rows, cols, blocksize in [
        (1, 1, 32),
        (3, 31, 32),
        (33, 130, 64),
        (2, 257, 64),
        (4, 128, 32),
    ]:
        codes = against_guard_page(np.zeros((rows, (cols + 1) // 2), np.uint8), side)
        absmax = against_guard_page(np.zeros((rows, -(-cols // blocksize)), np.float32), side)
        for m in (1, 3, 20, 35):
            sizes = (m, rows, cols, blocksize, "nf4")
            for gap in (0, 7):
                wide = guarded((m - 1) * (cols + gap) + cols)
                y, bias = guarded(m, rows), guarded(rows)
                kq_kernels.linear_4bit(wide, codes, absmax, bias, y, *sizes, row_stride=cols + gap)
                grad, out = guarded((m - 1) * (rows + gap) + rows), guarded(m, cols)
                kq_kernels.linear_4bit_backward(
                    grad, codes, absmax, out, *sizes, row_stride=rows + gap
                )


def exercise_int8(side: str) -> None:
    """The int8 operations, contiguous and with rows apart."""
    rng = np.random.default_rng(0)

    def guarded(array: np.ndarray) -> np.ndarray:
        return against_guard_page(array, side)

    def codes(*shape: int) -> np.ndarray:
        return guarded(rng.integers(-128, 128, shape, dtype=np.int8))

    for dtype in (np.float32, np.float16):
        for n, k in [(1, 1), (3, 31), (33, 130), (2, 257), (20, 64), (32, 130)]:
            weight, absmax = codes(n, k), guarded(np.ones(n, np.float32))
            kq_kernels.int8_vectorwise_dequant(
                weight, absmax, guarded(np.ones((n, k), dtype)), n, k
            )
            bias = guarded(np.ones(n, dtype))
            for m, gap in [(1, 0), (3, 7), (20, 0), (40, 7), (70, 0)]:
                apart, size = k + gap, (m - 1) * (k + gap) + k
                x = guarded(3 * rng.standard_normal(size).astype(dtype))
                y, sums = guarded(np.ones((m, n), dtype)), guarded(np.ones((m, n), np.int32))
                rows, columns = guarded(np.ones(m, np.float32)), guarded(np.ones(k, np.uint8))
                kq_kernels.int8_vectorwise_quant(
                    x, codes(m, k), rows, columns, m, k, 6.0, row_stride=apart
                )
                kq_kernels.int8_linear(x, weight, absmax, bias, y, m, n, k, 6.0, row_stride=apart)
                kq_kernels.int8_linear_matmul(codes(size), weight, sums, m, n, k, row_stride=apart)
                kq_kernels.int8_mm_dequant(sums, rows, absmax, bias, y, m, n)
                grad = guarded(np.ones((m - 1) * (n + gap) + n, dtype))
                out = guarded(np.ones((m, k), dtype))
                kq_kernels.int8_linear_backward(
                    grad, weight, absmax, out, m, n, k, row_stride=n + gap
                )


@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("what", ["exercise", "exercise_strides", "exercise_bf16", "exercise_int8"])
@pytest.mark.parametrize("name", kq_kernels.available_isas())
def test_guard_pages(name, what, side) -> None:
    # In a process of its own: a byte outside is a segmentation fault.
    tests = os.path.dirname(__file__)
    result = subprocess.run(
        [sys.executable, "-c", f"import test_memory; test_memory.{what}({side!r})"],
        env={**os.environ, "KQ_CPU_ISA": name, "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    cols = 2**31 + 96
    x = np.zeros(cols, np.float16)
    x[-96:] = np.linspace(-1, 1, 96)
    codes, absmax = np.empty(cols // 2, np.uint8), np.empty(cols // 64 + 1, np.float32)
    kq_kernels.quantize_4bit(x, codes, absmax, 1, cols, 64, "nf4")
    expected, scales = definition.quantize_4bit(x[None, -96:], 64, "nf4")
    np.testing.assert_array_equal(codes[-48:], expected[0])
    np.testing.assert_array_equal(absmax[-2:], scales[0])
    assert (codes[:-48] == 0x77).all()
    kq_kernels.dequantize_4bit(codes, absmax, x, 1, cols, 64, "nf4")
    decoded = definition.dequantize_4bit(expected, scales, 96, 64, "nf4")
    np.testing.assert_array_equal(x[-96:], decoded[0].astype(np.float16))
