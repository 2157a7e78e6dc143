"""Products with a packed weight, against float64 within the bound of a float32 sum."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

# Rows of x on both sides of every change of kernel and of tile width on every instruction set.
ROWS = [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 70]
# out, in, blocksize: whole, short and odd rows; outputs around tiles and panels; several reduction
# panels
WEIGHTS = [
    (64, 64, 64),
    (48, 130, 64),
    (90, 200, 64),
    (13, 33, 32),
    (130, 576, 64),
    (100, 1100, 128),
    (7, 96, 32),
    (390, 40, 32),
]
UNIT = 2.0**-24  # unit roundoff of float32


def gamma(n: int) -> float:
    """Higham, Accuracy and Stability of Numerical Algorithms, section 3.1."""
    return n * UNIT / (1 - n * UNIT)


def packed_weight(n: int, k: int, blocksize: int, quant_type: str = "nf4"):
    weight = np.random.default_rng(n + k).standard_normal((n, k)).astype(np.float32)
    codes, absmax = definition.quantize_4bit(weight, blocksize, quant_type)
    return codes, absmax, definition.dequantize_4bit(codes, absmax, k, blocksize, quant_type)


def check(y, x, w, bias, extra: int) -> None:
    """|y - exact| <= gamma * (|x| |w| + |bias|): per product one rounding of the decoded weight and
    one of the scaled partial sum, `extra` more for the sum, its halves and the bias."""
    exact = x.astype(np.float64) @ w.astype(np.float64).T + bias
    size = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T + np.abs(bias)
    assert np.all(np.abs(y - exact) <= gamma(x.shape[1] + extra) * size)


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k", "blocksize"), WEIGHTS)
def test_linear_4bit(isa, m, n, k, blocksize) -> None:
    codes, absmax, weight = packed_weight(n, k, blocksize)
    rng = np.random.default_rng(m)
    x = rng.standard_normal((m, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    for b in (None, bias):
        y = np.full((m, n), np.nan, np.float32)
        kq_kernels.linear_4bit(x, codes, absmax, b, y, m, n, k, blocksize, "nf4")
        check(y, x, weight, np.zeros(n) if b is None else b, extra=4)


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k", "blocksize"), WEIGHTS)
def test_linear_4bit_backward(isa, m, n, k, blocksize) -> None:
    codes, absmax, weight = packed_weight(n, k, blocksize, "fp4")
    grad = np.random.default_rng(m).standard_normal((m, n)).astype(np.float32)
    out = np.full((m, k), np.nan, np.float32)
    kq_kernels.linear_4bit_backward(grad, codes, absmax, out, m, n, k, blocksize, "fp4")
    check(out, grad, np.ascontiguousarray(weight.T), np.zeros(k), extra=2)


@pytest.mark.parametrize("m", [1, 3, 40])
def test_nested_scales_give_the_same_as_expanded_ones(isa, m) -> None:
    n, k, blocksize = 50, 200, 32
    count = n * -(-k // blocksize)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (n, k // 2), dtype=np.uint8)
    scale_codes = rng.integers(0, 256, count, dtype=np.uint8)
    nested = rng.random(-(-count // 256)).astype(np.float32)
    code, offset = definition.dynamic_map(signed=True), np.array([1.5], np.float32)
    scales = (code[scale_codes] * nested[np.arange(count) // 256] + offset).astype(np.float32)
    x = rng.standard_normal((m, k)).astype(np.float32)
    y, expected = np.empty((2, m, n), np.float32)
    kq_kernels.linear_4bit(
        x, codes, scale_codes, None, y, m, n, k, blocksize, "nf4", nested, code, offset
    )
    kq_kernels.linear_4bit(x, codes, scales, None, expected, m, n, k, blocksize, "nf4")
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("m", [2, 40])
def test_half_precision_is_the_float32_result_rounded(isa, m) -> None:
    n, k, blocksize = 33, 130, 64
    codes, absmax, _ = packed_weight(n, k, blocksize)
    rng = np.random.default_rng(0)
    x, bias = (
        rng.standard_normal((m, k)).astype(np.float16),
        rng.standard_normal(n).astype(np.float16),
    )
    half, single = np.empty((m, n), np.float16), np.empty((m, n), np.float32)
    kq_kernels.linear_4bit(x, codes, absmax, bias, half, m, n, k, blocksize, "nf4")
    wide = [a.astype(np.float32) for a in (x, bias)]
    kq_kernels.linear_4bit(wide[0], codes, absmax, wide[1], single, m, n, k, blocksize, "nf4")
    np.testing.assert_array_equal(half, single.astype(np.float16))


@pytest.mark.parametrize("m", [1, 5, 40, 70])
def test_threads_do_not_change_a_bit(isa, m) -> None:
    n, k, blocksize = 390, 1200, 64
    codes, absmax, _ = packed_weight(n, k, blocksize)
    x = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
    grad = np.random.default_rng(m).standard_normal((m, n)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 5):
        y, g = np.empty((m, n), np.float32), np.empty((m, k), np.float32)
        kq_kernels.linear_4bit(
            x, codes, absmax, None, y, m, n, k, blocksize, "nf4", threads=threads
        )
        kq_kernels.linear_4bit_backward(
            grad, codes, absmax, g, m, n, k, blocksize, "nf4", threads=threads
        )
        results.append(y.tobytes() + g.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("m", [1, 3, 20, 70])
@pytest.mark.parametrize("k", [33, 160, 576])
def test_scale_that_is_not_finite_stays_in_its_row_of_the_weight(isa, m, k) -> None:
    """Also where a row ends within a vector, and the next row's scales stand behind its own."""
    codes, absmax, _ = packed_weight(20, k, 32)
    x = np.random.default_rng(k).standard_normal((m, k)).astype(np.float32)
    expected, y = np.empty((m, 20), np.float32), np.empty((m, 20), np.float32)
    kq_kernels.linear_4bit(x, codes, absmax, None, expected, m, 20, k, 32, "nf4")
    damaged = absmax.copy()
    damaged[1], damaged[9] = np.nan, np.inf
    kq_kernels.linear_4bit(x, codes, damaged, None, y, m, 20, k, 32, "nf4")
    intact = np.delete(np.arange(20), [1, 9])
    np.testing.assert_array_equal(y[:, intact], expected[:, intact])
    assert not np.isfinite(y[:, [1, 9]]).any()


def test_scales_may_be_given_as_bits(isa) -> None:
    n, k, blocksize, m = 20, 160, 64, 3
    codes, absmax, _ = packed_weight(n, k, blocksize)
    x = np.random.default_rng(0).standard_normal((m, k)).astype(np.float32)
    expected, y = np.empty((m, n), np.float32), np.empty((m, n), np.float32)
    kq_kernels.linear_4bit(x, codes, absmax, None, expected, m, n, k, blocksize, "nf4")
    kq_kernels.linear_4bit(x, codes, absmax.view(np.int32), None, y, m, n, k, blocksize, "nf4")
    np.testing.assert_array_equal(y, expected)


def test_not_a_number_stays_in_its_row(isa) -> None:
    codes, absmax, _ = packed_weight(20, 64, 64)
    for m in (3, 20):
        x = np.ones((m, 64), np.float32)
        x[1, 5] = np.nan
        y = np.empty((m, 20), np.float32)
        kq_kernels.linear_4bit(x, codes, absmax, None, y, m, 20, 64, 64, "nf4")
        assert np.isnan(y[1]).all()
        assert np.isfinite(np.delete(y, 1, axis=0)).all()


def test_an_empty_reduction_gives_the_bias(isa) -> None:
    bias = np.arange(3, dtype=np.float32)
    for m in (1, 20):
        y = np.full((m, 3), np.nan, np.float32)
        empty = np.empty((m, 0), np.float32)
        kq_kernels.linear_4bit(
            empty,
            np.empty((3, 0), np.uint8),
            np.empty((3, 0), np.float32),
            bias,
            y,
            m,
            3,
            0,
            64,
            "nf4",
        )
        np.testing.assert_array_equal(y, np.tile(bias, (m, 1)))


def test_more_rows_than_one_pass_takes(isa) -> None:
    if isa == "scalar":
        m, n, k = 2049, 4, 32
    else:
        m, n, k = 4100, 40, 64
    codes, absmax, weight = packed_weight(n, k, 32)
    x = np.random.default_rng(0).standard_normal((m, k)).astype(np.float32)
    y = np.full((m, n), np.nan, np.float32)
    kq_kernels.linear_4bit(x, codes, absmax, None, y, m, n, k, 32, "nf4")
    check(y, x, weight, np.zeros(n), extra=4)
