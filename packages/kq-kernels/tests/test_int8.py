"""Rows of int8 codes and their products: exact codes and sums, results within derived bounds."""

from __future__ import annotations

import int8_definition as definition
import numpy as np
import pytest

import kq_kernels

UNIT = 2.0**-24  # unit roundoff of float32
# Rows of x on both sides of every change of kernel and of tile width on every instruction set.
ROWS = [0, 1, 2, 3, 5, 7, 16, 17, 33, 70, 97]
# out, in: no outputs, an empty sum, tails of all kinds, several slices of the reduced dimension
WEIGHTS = [
    (1, 1),
    (3, 7),
    (64, 64),
    (48, 130),
    (90, 200),
    (13, 33),
    (130, 576),
    (33, 2500),
    (131, 4097),
]
EDGES = [(0, 5), (5, 0)]
THRESHOLDS = [0.0, 2.5]


def quantize(x: np.ndarray, threshold: float, **options) -> definition.Rows:
    m, k = x.shape
    codes, absmax = np.full((m, k), 55, np.int8), np.full(m, np.nan, np.float32)
    outliers = np.full(k, 7, np.uint8) if threshold else None
    kq_kernels.int8_vectorwise_quant(x, codes, absmax, outliers, m, k, threshold, **options)
    if outliers is None:
        return definition.Rows(codes, absmax, np.zeros(k, bool))
    assert set(outliers) <= {0, 1}
    return definition.Rows(codes, absmax, outliers.astype(bool))


def linear(x, weight, absmax, bias, threshold=0.0, **options) -> np.ndarray:
    (m, k), n = x.shape, len(weight)
    out = np.full((m, n), np.nan, x.dtype)
    kq_kernels.int8_linear(x, weight, absmax, bias, out, m, n, k, threshold, **options)
    return out


def random_codes(*shape: int) -> np.ndarray:
    """All 256 of them: -128 is no code of a quantizer, but exactness holds for it, too."""
    return np.random.default_rng(sum(shape)).integers(-128, 128, shape, dtype=np.int8)


def same(got: definition.Rows, expected: definition.Rows) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 15), (5, 64), (7, 577), (3, 4099)])
def test_codes_are_those_of_the_definition(isa, shape, dtype, threshold) -> None:
    x = np.random.default_rng(shape[1]).standard_normal(shape).astype(dtype)
    expected = definition.quantize(x.astype(np.float32), threshold)
    for threads in (1, 3):
        same(quantize(x, threshold, threads=threads), expected)


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-37, 1e-30, 1e30, 3e38])
def test_codes_of_very_small_and_large_rows(isa, scale) -> None:
    x = (np.linspace(-1, 1, 200) * scale).astype(np.float32).reshape(2, 100)
    same(quantize(x, 0.0), definition.quantize(x))


def test_rows_that_have_no_ratios_have_codes_of_zero(isa) -> None:
    x = np.ones((4, 70), np.float32)
    x[0] = 0
    x[1, 3] = np.nan
    x[2, 69] = -np.inf
    codes, absmax, _ = quantize(x, 0.0)
    np.testing.assert_array_equal(absmax, np.array([0, np.nan, np.inf, 1], np.float32))
    assert not codes[:3].any()
    assert (codes[3] == 127).all()


def test_outliers_include_the_threshold_and_infinity_but_not_nan(isa) -> None:
    x = np.full((3, 40), 0.5, np.float32)
    below = np.nextafter(np.float32(6), np.float32(0))
    x[0, 1], x[1, 2], x[2, 3], x[2, 5] = -6, below, np.nan, np.inf
    before = x.copy()
    codes, absmax, outliers = quantize(x, 6.0)
    assert np.flatnonzero(outliers).tolist() == [1, 5]
    np.testing.assert_array_equal(absmax, np.array([0.5, below, np.nan], np.float32))
    assert not codes[:, [1, 5]].any()
    assert codes[0, 0] == 127
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("threshold", [0.1, 1e-60, 1e300])
def test_a_threshold_is_not_rounded_down(isa, threshold) -> None:
    """0.1 lies above the nearest float32, 1e-60 and 1e300 beyond all of them."""
    x = np.array([[0.1, 0.0, 3e38, 1e-45]], np.float32)
    expected = x[0].astype(np.float64) >= threshold
    np.testing.assert_array_equal(quantize(x, threshold).outliers, expected)


def test_a_row_of_outliers_has_absmax_zero(isa) -> None:
    codes, absmax, outliers = quantize(np.array([[7.0, -8.0]], np.float32), 6.0)
    assert absmax.tolist() == [0]
    assert not codes.any()
    assert outliers.all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 15), (5, 64), (7, 577)])
def test_dequantize(isa, shape, dtype) -> None:
    codes, absmax = random_codes(*shape), np.linspace(0, 3, shape[0], dtype=np.float32)
    out = np.full(shape, np.nan, dtype)
    kq_kernels.int8_vectorwise_dequant(codes, absmax, out, *shape)
    np.testing.assert_array_equal(out, definition.dequantize(codes, absmax).astype(dtype))


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k"), WEIGHTS + EDGES)
def test_sums_are_exact(isa, m, n, k) -> None:
    a, b = random_codes(m, k), random_codes(n, k)
    out = np.full((m, n), 7, np.int32)
    kq_kernels.int8_linear_matmul(a, b, out, m, n, k)
    np.testing.assert_array_equal(out, definition.matmul(a, b))


@pytest.mark.parametrize("m", [1, 40])
@pytest.mark.parametrize("signs", [(127, 127), (-127, 127), (127, -127), (-127, -127)])
def test_the_longest_sums_of_the_largest_products(isa, m, signs) -> None:
    k = 2**17
    a, b = np.full((m, k), signs[0], np.int8), np.full((2, k), signs[1], np.int8)
    out = np.empty((m, 2), np.int32)
    kq_kernels.int8_linear_matmul(a, b, out, m, 2, k)
    assert (out == signs[0] * signs[1] * k).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (1, 1), (3, 15), (5, 300)])
def test_mm_dequant(isa, m, n, dtype) -> None:
    rng = np.random.default_rng(n)
    sums = rng.integers(-(2**20), 2**20, (m, n), dtype=np.int32)
    row, col = rng.random(m).astype(np.float32), rng.random(n).astype(np.float32)
    bias = rng.standard_normal(n).astype(dtype)
    for b in (None, bias):
        out = np.full((m, n), np.nan, dtype)
        kq_kernels.int8_mm_dequant(sums, row, col, b, out, m, n)
        added = np.zeros(n) if b is None else b.astype(np.float64)
        product = sums * (row.astype(np.float64)[:, None] * col / 127**2)
        # float32: the constant, two products for the scale, the sum's own and its product, the bias
        error = 6 * UNIT * (np.abs(product) + np.abs(added))
        error += np.abs(product + added) * (2.0**-11 if dtype == np.float16 else 0)
        assert np.all(np.abs(out - (product + added)) <= error)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k"), WEIGHTS + EDGES)
def test_linear(isa, m, n, k, threshold) -> None:
    rng = np.random.default_rng(m + n)
    x = rng.standard_normal((m, k)).astype(np.float32)
    weight, absmax = random_codes(n, k), rng.random(n).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    rows = definition.quantize(x, threshold)
    step = absmax.astype(np.float64) / 127
    product = definition.matmul(rows.codes, weight) * (
        rows.absmax.astype(np.float64)[:, None] / 127 * step
    )
    apart = x[:, rows.outliers].astype(np.float64)
    decoded = weight[:, rows.outliers] * step[:, None]
    count = rows.outliers.sum()
    for b in (None, bias):
        added = np.zeros(n) if b is None else b.astype(np.float64)
        exact = product + apart @ decoded.T + added
        size = np.abs(product) + np.abs(apart) @ np.abs(decoded).T + np.abs(added)
        # As in test_mm_dequant; for each outlier two roundings of the weight, a product, a sum.
        bound = (6 + 3 + 2 * count) * UNIT * size
        assert np.all(np.abs(linear(x, weight, absmax, b, threshold) - exact) <= bound * 1.001)


def test_half_precision_is_the_float32_result_rounded(isa) -> None:
    rng = np.random.default_rng(0)
    weight, absmax = random_codes(33, 130), rng.random(33).astype(np.float32)
    for m in (2, 40):
        x = (3 * rng.standard_normal((m, 130))).astype(np.float16)
        bias = rng.standard_normal(33).astype(np.float16)
        half = linear(x, weight, absmax, bias, 6.0)
        single = linear(x.astype(np.float32), weight, absmax, bias.astype(np.float32), 6.0)
        np.testing.assert_array_equal(half, single.astype(np.float16))


def test_a_row_does_not_depend_on_the_others(isa) -> None:
    """But for the outliers of the others, so without a threshold, and whichever kernel takes it."""
    x = np.random.default_rng(0).standard_normal((70, 333)).astype(np.float32)
    weight, absmax = random_codes(50, 333), np.linspace(1, 2, 50, dtype=np.float32)
    alone = np.concatenate([linear(x[i : i + 1], weight, absmax, None) for i in range(70)])
    np.testing.assert_array_equal(linear(x, weight, absmax, None), alone)


@pytest.mark.parametrize("m", [1, 5, 40, 70])
def test_threads_do_not_change_a_bit(isa, m) -> None:
    n, k = 390, 1200
    rng = np.random.default_rng(m)
    weight, absmax = random_codes(n, k), rng.random(n).astype(np.float32)
    x, grad = (rng.standard_normal((m, size)).astype(np.float32) for size in (k, n))
    results = []
    for threads in (1, 2, 3, 5):
        out = np.empty((m, k), np.float32)
        kq_kernels.int8_linear_backward(grad, weight, absmax, out, m, n, k, threads)
        y = linear(x, weight, absmax, None, 2.5, threads=threads)
        results.append(y.tobytes() + out.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k"), WEIGHTS[:-1] + EDGES)
def test_backward(isa, m, n, k) -> None:
    rng = np.random.default_rng(m)
    weight, absmax = random_codes(n, k), rng.random(n).astype(np.float32)
    grad = rng.standard_normal((m, n)).astype(np.float32)
    out = np.full((m, k), np.nan, np.float32)
    kq_kernels.int8_linear_backward(grad, weight, absmax, out, m, n, k)
    decoded = weight * (absmax.astype(np.float64) / 127)[:, None]
    size = np.abs(grad.astype(np.float64)) @ np.abs(decoded)
    steps = n + 2  # two roundings of the weight
    bound = steps * UNIT / (1 - steps * UNIT) * size
    assert np.all(np.abs(out - grad.astype(np.float64) @ decoded) <= bound)


def test_scales_may_be_given_as_bits(isa) -> None:
    weight, absmax = random_codes(20, 70), np.linspace(1, 2, 20, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)
    expected = linear(x, weight, absmax, None)
    np.testing.assert_array_equal(linear(x, weight, absmax.view(np.int32), None), expected)


@pytest.mark.parametrize("m", [3, 40])
def test_damage_stays_in_its_row_and_column(isa, m) -> None:
    x = np.random.default_rng(0).standard_normal((m, 70)).astype(np.float32)
    weight, absmax = random_codes(20, 70), np.linspace(1, 2, 20, dtype=np.float32)
    expected = linear(x, weight, absmax, None)
    x[1, 5], absmax[7] = np.nan, np.inf
    y = linear(x, weight, absmax, None)
    assert np.isnan(y[1]).all()
    assert not np.isfinite(y[:, 7]).any()
    others = np.ix_(np.delete(np.arange(m), 1), np.delete(np.arange(20), 7))
    np.testing.assert_array_equal(y[others], expected[others])


def test_more_rows_than_one_pass_takes(isa) -> None:
    m, n, k = 1100, 40, 65
    x = np.random.default_rng(0).standard_normal((m, k)).astype(np.float32)
    x[:, 3] += 6
    weight, absmax = random_codes(n, k), np.ones(n, np.float32)
    once = linear(x, weight, absmax, None, 6.0)
    halves = [linear(part, weight, absmax, None, 6.0) for part in (x[:550], x[550:])]
    np.testing.assert_array_equal(once, np.concatenate(halves))
