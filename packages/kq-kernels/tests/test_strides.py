"""Rows that lie apart give the bits of contiguous ones; nothing between them is read."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
GAPS = [1, 13, 640]
SHAPES = [
    # rows, cols, blocksize: whole blocks (which a contiguous input could run together), short last
    # blocks, odd rows, less than one vector, one column
    (5, 64, 64),
    (7, 256, 32),
    (4, 130, 64),
    (6, 33, 32),
    (3, 4097, 4096),
    (9, 1, 32),
]


def samples(rows: int, cols: int, dtype: str) -> np.ndarray:
    """Normal values; of bfloat16, their bit patterns."""
    x = np.random.default_rng(rows + cols).standard_normal((rows, cols)).astype(np.float32)
    if dtype == "bfloat16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(DTYPES[dtype])


def apart(x: np.ndarray, stride: int) -> np.ndarray:
    """The memory from the first to the last element of `x`: rows `stride` apart, NaN between."""
    rows, cols = x.shape
    memory = np.empty((rows - 1) * stride + cols, x.dtype)
    memory.view(np.uint8)[:] = 0xFF
    np.lib.stride_tricks.as_strided(memory, x.shape, (stride * x.itemsize, x.itemsize))[...] = x
    return memory


def argument(x: np.ndarray, dtype: str) -> np.ndarray | tuple[int, int, str]:
    return (x.ctypes.data, x.size, dtype) if dtype == "bfloat16" else x


def compare(function, outputs: list[np.ndarray], x: np.ndarray, dtype: str, gap: int) -> None:
    """Compare function(array, outputs, row_stride) of contiguous and spaced rows, to the bit."""
    contiguous, spaced = (
        [np.full(out.nbytes, byte, np.uint8).view(out.dtype).reshape(out.shape) for out in outputs]
        for byte in (0x55, 0xAA)
    )
    stride = x.shape[1] + gap
    memory = apart(x, stride)
    before = memory.tobytes()
    function(argument(x, dtype), contiguous, None)
    function(argument(memory, dtype), spaced, stride)
    assert [a.tobytes() for a in spaced] == [a.tobytes() for a in contiguous]
    assert memory.tobytes() == before


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols", "blocksize"), SHAPES)
def test_quantize(isa, rows, cols, blocksize, dtype, gap) -> None:
    x, code = samples(rows, cols, dtype), definition.dynamic_map(signed=True)
    absmax = np.empty((rows, -(-cols // blocksize)), np.float32)

    def four_bit(x, outputs, row_stride) -> None:
        shape = (rows, cols, blocksize)
        kq_kernels.quantize_4bit(x, *outputs, *shape, "fp4", threads=2, row_stride=row_stride)

    def eight_bit(x, outputs, row_stride) -> None:
        kq_kernels.quantize_blockwise(x, code, *outputs, rows, cols, blocksize, 2, row_stride)

    packed, codes = np.empty((rows, (cols + 1) // 2), np.uint8), np.empty((rows, cols), np.uint8)
    compare(four_bit, [packed, absmax], x, dtype, gap)
    compare(eight_bit, [codes, absmax], x, dtype, gap)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 2, 5, 9, 33])  # both kernels, short last tiles
@pytest.mark.parametrize(("n", "k", "blocksize"), [(24, 128, 64), (13, 33, 32), (7, 600, 32)])
def test_products(isa, n, k, blocksize, m, dtype, gap) -> None:
    weight = samples(n, k, "float32")
    codes, absmax = definition.quantize_4bit(weight, blocksize, "nf4")
    x, grad = samples(m, k, dtype), samples(m, n, dtype)
    sizes = (m, n, k, blocksize, "nf4")

    def forward(x, outputs, row_stride) -> None:
        y = argument(outputs[0], dtype)
        kq_kernels.linear_4bit(x, codes, absmax, None, y, *sizes, row_stride=row_stride)

    def backward(grad, outputs, row_stride) -> None:
        out = argument(outputs[0], dtype)
        kq_kernels.linear_4bit_backward(grad, codes, absmax, out, *sizes, row_stride=row_stride)

    compare(forward, [grad], x, dtype, gap)
    compare(backward, [x], grad, dtype, gap)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 5, 40])  # all kernels, short last tiles
@pytest.mark.parametrize(("n", "k"), [(24, 128), (13, 33), (7, 600)])
def test_int8(isa, n, k, m, dtype, gap) -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (n, k), dtype=np.int8)
    absmax = np.ones(n, np.float32)
    x, grad = samples(m, k, dtype), samples(m, n, dtype)
    codes, rows, columns = np.empty((m, k), np.int8), np.empty(m, np.float32), np.empty(k, np.uint8)
    sizes = (m, n, k)

    def quantize(x, outputs, row_stride) -> None:
        kq_kernels.int8_vectorwise_quant(x, *outputs, m, k, 2.0, 2, row_stride)

    def forward(x, outputs, row_stride) -> None:
        y = argument(outputs[0], dtype)
        kq_kernels.int8_linear(x, weight, absmax, None, y, *sizes, 2.0, row_stride=row_stride)

    def backward(grad, outputs, row_stride) -> None:
        out = argument(outputs[0], dtype)
        kq_kernels.int8_linear_backward(grad, weight, absmax, out, *sizes, row_stride=row_stride)

    compare(quantize, [codes, rows, columns], x, dtype, gap)
    compare(forward, [grad], x, dtype, gap)
    compare(backward, [x], grad, dtype, gap)


@pytest.mark.parametrize("gap", GAPS)
def test_int8_codes_and_sums(isa, gap) -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (5, 33), dtype=np.int8)
    sums = codes[:, :24].astype(np.int32)
    scales = np.ones(24, np.float32)

    def matmul(a, outputs, row_stride) -> None:
        weight = codes[:4].copy()
        kq_kernels.int8_linear_matmul(a, weight, *outputs, 5, 4, 33, row_stride=row_stride)

    def mm_dequant(a, outputs, row_stride) -> None:
        kq_kernels.int8_mm_dequant(a, scales[:5], scales, None, *outputs, 5, 24, 1, row_stride)

    compare(matmul, [np.empty((5, 4), np.int32)], codes, "int8", gap)
    compare(mm_dequant, [np.empty((5, 24), np.float32)], np.ascontiguousarray(sums), "int32", gap)


def test_more_rows_than_one_pass_takes(isa) -> None:
    m, n, k = 2100, 4, 32
    codes, absmax = definition.quantize_4bit(samples(n, k, "float32"), 32, "nf4")

    def forward(x, outputs, row_stride) -> None:
        sizes = (m, n, k, 32, "nf4")
        kq_kernels.linear_4bit(x, codes, absmax, None, *outputs, *sizes, row_stride=row_stride)

    y = np.empty((m, n), np.float32)
    compare(forward, [y], samples(m, k, "float32"), "float32", 5)


def test_the_row_length_itself_is_a_stride(isa) -> None:
    def quantize(x, outputs, row_stride) -> None:
        kq_kernels.quantize_4bit(x, *outputs, 3, 70, 64, "nf4", row_stride=row_stride)

    packed, absmax = np.empty((3, 35), np.uint8), np.empty((3, 2), np.float32)
    compare(quantize, [packed, absmax], samples(3, 70, "float32"), "float32", 0)


@pytest.mark.parametrize(("rows", "cols"), [(0, 64), (3, 0), (2**40, 0)])
def test_an_empty_input_has_any_stride(isa, rows, cols) -> None:
    empty, nothing = np.empty(0, np.float32), np.empty(0, np.uint8)
    kq_kernels.quantize_4bit(empty, nothing, empty, rows, cols, 64, "nf4", row_stride=2**62)


def test_an_empty_reduction_with_a_stride_gives_the_bias(isa) -> None:
    empty, bias = np.empty(0, np.float32), np.arange(3, dtype=np.float32)
    for m in (1, 20):
        y = np.full((m, 3), np.nan, np.float32)
        codes = np.empty(0, np.uint8)
        kq_kernels.linear_4bit(empty, codes, empty, bias, y, m, 3, 0, 64, "nf4", row_stride=2**62)
        np.testing.assert_array_equal(y, np.tile(bias, (m, 1)))
