"""Inputs made to find a decision that is not exact, shapes made to find an edge that is missed."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

# Over the whole range of exponents, and where products and reciprocals may leave it.
SCALES = [
    *(np.float32(2.0) ** np.arange(-149, 128, 17)),
    *(np.float32(1.37) * np.float32(2.0) ** np.arange(-126, 127, 23)),
    *(np.nextafter(np.float32(2.0) ** -120, np.float32(side)) for side in (0, 1)),
    np.finfo(np.float32).max,
]


def around(targets: np.ndarray, scale: np.float32) -> np.ndarray:
    """The float32 values nearest to `targets` * `scale`, and the two on either side of each."""
    with np.errstate(over="ignore", under="ignore"):
        middle = (targets.astype(np.float64) * np.float64(scale)).astype(np.float32)
        found = [middle]
        for side in (-np.inf, np.inf):
            near = middle
            for _ in range(2):
                near = np.nextafter(near, np.float32(side))
                found.append(near)
    values = np.concatenate(found)
    return values[np.abs(values) <= scale]


def rows_of(values: np.ndarray, scale: np.float32, blocksize: int) -> np.ndarray:
    """Blocks, one to a row, that hold `values` behind an element which sets their scale."""
    width = blocksize - 1
    rows = -(-len(values) // width)
    padded = np.zeros(rows * width, np.float32)
    padded[: len(values)] = values
    return np.insert(padded.reshape(rows, width), 0, scale, axis=1)


def midpoints(values: np.ndarray) -> np.ndarray:
    v = values.astype(np.float64)
    return (v[:-1] + v[1:]) / 2


@pytest.mark.parametrize("blocksize", [32, 64, 256])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_4bit_at_thresholds_and_between_bins(isa, quant_type, blocksize) -> None:
    # A search may sort values into bins first, wherever their edges are: try several widths.
    thresholds = midpoints(np.sort(definition.CODEBOOKS[quant_type]))
    edges = [(np.arange(-64, 64) + 0.5) / bins for bins in (15.49, 15.5, 16.0, 31.5, 32.0)]
    targets = np.concatenate([thresholds, *edges])
    for scale in SCALES:
        x = rows_of(around(targets, scale), scale, blocksize)
        codes = np.empty((len(x), blocksize // 2), np.uint8)
        absmax = np.empty((len(x), 1), np.float32)
        kq_kernels.quantize_4bit(x, codes, absmax, *x.shape, blocksize, quant_type)
        expected, scales = definition.quantize_4bit(x, blocksize, quant_type)
        np.testing.assert_array_equal(codes, expected, err_msg=repr(scale))
        assert absmax.tobytes() == scales.tobytes()


def sorted_codebook(kind: str, rng: np.random.Generator) -> np.ndarray:
    match kind:
        case "uniform":
            code = rng.uniform(-1, 1, 256)
        case "repeated":
            code = rng.choice(rng.uniform(-1, 1, 20), 256)
        case "decades":
            code = rng.choice([-1, 1], 256) * 10.0 ** rng.uniform(-30, 0, 256)
        case "beyond one":
            code = rng.normal(0, 1e3, 256)
        case "one side":
            code = rng.uniform(0.5, 1, 256)
        case _:
            code = np.full(256, -0.25)
    return np.sort(code.astype(np.float32))


@pytest.mark.parametrize(
    "kind", ["uniform", "repeated", "decades", "beyond one", "one side", "constant"]
)
def test_any_sorted_codebook_at_its_thresholds(isa, kind) -> None:
    rng = np.random.default_rng(7)
    for scale in SCALES:
        code = sorted_codebook(kind, rng)
        targets = np.concatenate([midpoints(code), rng.uniform(-1, 1, 100)])
        x = rows_of(around(targets, scale), scale, 301)
        codes, absmax = np.empty(x.shape, np.uint8), np.empty((len(x), 1), np.float32)
        kq_kernels.quantize_blockwise(x, code, codes, absmax, *x.shape, 301)
        expected = definition.nearest(x, absmax, code, 301)
        np.testing.assert_array_equal(codes, expected, err_msg=repr(scale))


WIDTHS = [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257, 1023, 1024, 1025, 2047, 2049]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_edge_of_a_loop(isa, dtype, offset) -> None:
    # With offset 1 every array starts one element off an aligned address.
    rng = np.random.default_rng(8)
    code = definition.dynamic_map(signed=True)

    def placed(array: np.ndarray) -> np.ndarray:
        memory = np.full(array.size + 16, 0x55).astype(array.dtype)
        out = memory[offset : offset + array.size].reshape(array.shape)
        out[...] = array
        return out

    for cols in WIDTHS:
        for blocksize in (32, 64, 128, 4096):
            x = placed(rng.standard_normal((3, cols)).astype(dtype))
            absmax = placed(np.zeros((3, -(-cols // blocksize)), np.float32))
            shape = (*x.shape, blocksize)
            codes = placed(np.zeros((3, (cols + 1) // 2), np.uint8))
            kq_kernels.quantize_4bit(x, codes, absmax, *shape, "nf4", threads=2)
            expected, scales = definition.quantize_4bit(x, blocksize, "nf4")
            np.testing.assert_array_equal(codes, expected)
            np.testing.assert_array_equal(absmax, scales)
            out = placed(np.zeros_like(x))
            kq_kernels.dequantize_4bit(codes, absmax, out, *shape, "nf4", threads=2)
            decoded = definition.dequantize_4bit(codes, scales, cols, blocksize, "nf4")
            np.testing.assert_array_equal(out, decoded.astype(dtype))

            eight = placed(np.zeros((3, cols), np.uint8))
            kq_kernels.quantize_blockwise(x, code, eight, absmax, *shape, threads=2)
            np.testing.assert_array_equal(eight, definition.nearest(x, scales, code, blocksize))
            kq_kernels.dequantize_blockwise(eight, code, absmax, out, *shape, threads=2)
            decoded = code[eight] * definition.spread(absmax, blocksize, cols)
            np.testing.assert_array_equal(out, decoded.astype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_every_pair_of_codes_in_sixteen_bits(isa, quant_type, dtype) -> None:
    # Every byte, at scales that make the 16-bit values denormal, halfway, infinite and NaN.
    rng = np.random.default_rng(9)
    exponents = rng.uniform(-140, 128, 500)
    with np.errstate(over="ignore", under="ignore"):
        scales = (2.0**exponents).astype(np.float32)
    scales = np.concatenate([scales, np.float32([0, np.inf, np.nan, 1, 65504, 2**-24, 2**-149])])
    codes = np.tile(np.arange(256, dtype=np.uint8), (len(scales), 1))
    out = np.empty((len(scales), 512), np.uint16)
    shape = (len(scales), 512, 512)
    argument = (out.ctypes.data, out.size, dtype)
    kq_kernels.dequantize_4bit(codes, scales, argument, *shape, quant_type)
    with np.errstate(over="ignore", invalid="ignore"):
        wide = definition.dequantize_4bit(codes, scales[:, None], 512, 512, quant_type)
        if dtype == "float16":
            np.testing.assert_array_equal(out.view(np.float16), wide.astype(np.float16))
            return
    bits = wide.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(wide)
    np.testing.assert_array_equal(out[~nan], rounded[~nan])
    assert (out[nan] & 0x7FFF > 0x7F80).all()


def test_an_output_that_has_not_been_touched(isa) -> None:
    # Above 32 MiB its pages come straight from the system.
    rows, cols = 513, 2**15 + 32
    codes = np.random.default_rng(10).integers(0, 256, (rows, cols // 2), dtype=np.uint8)
    absmax = np.ones((rows, cols // 32), np.float32)
    touched = np.full((rows, cols), 9, np.float16)
    fresh = np.empty((rows, cols), np.float16)
    for out in (touched, fresh):
        kq_kernels.dequantize_4bit(codes, absmax, out, rows, cols, 32, "nf4")
    assert fresh.nbytes > 32 << 20
    assert fresh.tobytes() == touched.tobytes()
