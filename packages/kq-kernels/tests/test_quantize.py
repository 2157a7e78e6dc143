"""Quantizing and dequantizing: equal to the definition, to the bit, on every instruction set."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

SHAPES = [
    # rows, cols, blocksize: whole blocks, short last blocks, odd rows, less than one vector,
    # nothing
    (3, 64, 64),
    (5, 130, 64),
    (7, 33, 32),
    (2, 4097, 4096),
    (1, 1, 32),
    (4, 257, 128),
    (2, 576, 64),
    (0, 5, 32),
    (3, 0, 32),
]


def samples(rows: int, cols: int, dtype: type, seed: int = 0) -> np.ndarray:
    """Normal values with a zero row, a denormal row, a NaN and an infinity where there is room."""
    x = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    if rows > 3 and cols > 5:
        x[0, 3] = np.nan
        x[1, 5] = np.inf
        x[1, 0] = -np.inf
        x[2] *= np.float32(1e-42)
        x[3] = 0
    return x.astype(dtype)


def at_midpoints(values: np.ndarray, scale: float) -> np.ndarray:
    """At, one ulp below and one ulp above every decision threshold, behind an element of size
    `scale`."""
    v = values.astype(np.float64)
    middles = ((v[:-1] + v[1:]) / 2 * scale).astype(np.float32)
    around = [middles, np.nextafter(middles, np.float32(-9)), np.nextafter(middles, np.float32(9))]
    return np.concatenate([[np.float32(scale)], *around]).astype(np.float32)[None, :]


def run_quantize(x: np.ndarray, blocksize: int, quant_type: str, threads: int = 0):
    rows, cols = x.shape
    codes = np.full((rows, (cols + 1) // 2), 0xAA, np.uint8)
    absmax = np.full((rows, -(-cols // blocksize)), -1, np.float32)
    kq_kernels.quantize_4bit(x, codes, absmax, rows, cols, blocksize, quant_type, threads)
    return codes, absmax


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("rows", "cols", "blocksize"), SHAPES)
def test_quantize_4bit(isa, rows, cols, blocksize, dtype, quant_type) -> None:
    x = samples(rows, cols, dtype)
    codes, absmax = run_quantize(x, blocksize, quant_type)
    expected_codes, expected_absmax = definition.quantize_4bit(x, blocksize, quant_type)
    assert same_bits(absmax, expected_absmax)
    np.testing.assert_array_equal(codes, expected_codes)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("scale", [1.0, 0.3, 3.0e38, 1.7e-38, 1e-42])
def test_quantize_4bit_at_every_threshold(isa, quant_type, scale) -> None:
    values = np.sort(definition.CODEBOOKS[quant_type])
    x = at_midpoints(values, np.float32(scale))
    codes, _ = run_quantize(x, 64, quant_type)
    np.testing.assert_array_equal(codes, definition.quantize_4bit(x, 64, quant_type)[0])


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("rows", "cols", "blocksize"), SHAPES)
def test_dequantize_4bit(isa, rows, cols, blocksize, dtype, quant_type) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (rows, (cols + 1) // 2), dtype=np.uint8)
    absmax = samples(rows, -(-cols // blocksize), np.float32, 2)
    out = np.full((rows, cols), 9, dtype)
    kq_kernels.dequantize_4bit(codes, absmax, out, rows, cols, blocksize, quant_type)
    expected = definition.dequantize_4bit(codes, absmax, cols, blocksize, quant_type)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, expected.astype(dtype))


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_dequantize_4bit_with_nested_scales(isa, quant_type) -> None:
    rows, cols, blocksize = 37, 520, 32
    rng = np.random.default_rng(3)
    count = rows * -(-cols // blocksize)
    codes = rng.integers(0, 256, (rows, cols // 2), dtype=np.uint8)
    scale_codes = rng.integers(0, 256, count, dtype=np.uint8)
    nested = rng.random(-(-count // 256)).astype(np.float32)
    code = definition.dynamic_map(signed=True)
    offset = np.array([0.7], np.float32)
    out = np.empty((rows, cols), np.float32)
    kq_kernels.dequantize_4bit(
        codes, scale_codes, out, rows, cols, blocksize, quant_type, nested, code, offset
    )
    scales = code[scale_codes] * nested[np.arange(count) // 256] + offset
    expected = definition.dequantize_4bit(
        codes, scales.reshape(rows, -1), cols, blocksize, quant_type
    )
    assert same_bits(out, expected)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("rows", "cols", "blocksize"), [*SHAPES, (2, 1000, 7), (1, 5000, 256)])
def test_blockwise(isa, rows, cols, blocksize, dtype, signed) -> None:
    code = definition.dynamic_map(signed)
    x = samples(rows, cols, dtype, 4)
    codes = np.full((rows, cols), 0xAA, np.uint8)
    absmax = np.full((rows, -(-cols // blocksize)), -1, np.float32)
    kq_kernels.quantize_blockwise(x, code, codes, absmax, rows, cols, blocksize)
    assert same_bits(absmax, definition.absmax(x, blocksize).astype(np.float32))
    np.testing.assert_array_equal(codes, definition.nearest(x, absmax, code, blocksize))

    out = np.empty((rows, cols), dtype)
    kq_kernels.dequantize_blockwise(codes, code, absmax, out, rows, cols, blocksize)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = code[codes] * definition.spread(absmax, blocksize, cols)
        np.testing.assert_array_equal(out, expected.astype(dtype))


@pytest.mark.parametrize("scale", [1.0, 0.3, 3.0e38, 1.7e-38])
@pytest.mark.parametrize("signed", [True, False])
def test_blockwise_at_every_threshold(isa, signed, scale) -> None:
    code = definition.dynamic_map(signed)
    x = at_midpoints(code, np.float32(scale))
    codes, absmax = np.empty(x.shape, np.uint8), np.empty((1, 1), np.float32)
    kq_kernels.quantize_blockwise(x, code, codes, absmax, *x.shape, x.shape[1])
    np.testing.assert_array_equal(codes, definition.nearest(x, absmax, code, x.shape[1]))


def test_a_codebook_without_zero_gets_the_code_nearest_to_zero(isa) -> None:
    code = np.linspace(-1, 0.5, 256).astype(np.float32)
    x = np.zeros((1, 4), np.float32)
    codes, absmax = np.empty((1, 4), np.uint8), np.empty((1, 1), np.float32)
    kq_kernels.quantize_blockwise(x, code, codes, absmax, 1, 4, 4)
    assert set(codes[0]) == {np.abs(code.astype(np.float64)).argmin()}


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Round to nearest, ties to even, on the bits of finite or infinite float32 values."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def as_argument(bits: np.ndarray, dtype: str) -> tuple[int, int, str]:
    return (bits.ctypes.data, bits.size, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_every_sixteen_bit_input(isa, quant_type, dtype) -> None:
    # All 65,536 values, one to a block behind a larger neighbor, so that each is judged on its own.
    bits = np.arange(65536, dtype=np.uint16)
    if dtype == "bfloat16":
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        top = bfloat16_bits(np.full(1, 2.0, np.float32))[0]
    else:
        values = bits.view(np.float16).astype(np.float32)
        top = np.float16(2.0).view(np.uint16)
    pairs = np.stack([bits, np.full_like(bits, top)], axis=1)
    codes, absmax = np.empty((65536, 1), np.uint8), np.empty((65536, 1), np.float32)
    kq_kernels.quantize_4bit(as_argument(pairs, dtype), codes, absmax, 65536, 2, 32, quant_type)
    x = np.stack([values, np.full_like(values, 2.0)], axis=1)
    expected_codes, expected_absmax = definition.quantize_4bit(x, 32, quant_type)
    quiet = np.where(np.isnan(expected_absmax), np.float32(np.nan), expected_absmax)
    assert same_bits(absmax, quiet)
    np.testing.assert_array_equal(codes, expected_codes)


def test_dequantize_to_bfloat16_rounds_once(isa) -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 256, (64, 32), dtype=np.uint8)
    absmax = np.exp(rng.uniform(-60, 60, (64, 1))).astype(np.float32)
    out = np.empty((64, 64), np.uint16)
    kq_kernels.dequantize_4bit(codes, absmax, as_argument(out, "bfloat16"), 64, 64, 64, "nf4")
    expected = definition.dequantize_4bit(codes, absmax, 64, 64, "nf4")
    np.testing.assert_array_equal(out, bfloat16_bits(expected))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_do_not_change_a_bit(isa, threads) -> None:
    x = np.random.default_rng(6).standard_normal((301, 577)).astype(np.float32)
    for a, b in zip(run_quantize(x, 64, "nf4"), run_quantize(x, 64, "nf4", threads), strict=True):
        assert same_bits(a, b)
