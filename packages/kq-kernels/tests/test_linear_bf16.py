"""Products in bfloat16, against float64 within the bound of a float32 sum, rounded once."""

from __future__ import annotations

import bfloat16
import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

# Rows of x on both sides of every change of kernel, of tile height and of panel.
ROWS = [1, 2, 3, 5, 16, 17, 32, 33, 70]
# out, in, blocksize: whole, short and odd rows; outputs and reduced dimensions around the tiles,
# units, chunks, stages and blocks of the kernels with tiles
WEIGHTS = [
    (64, 64, 64),
    (48, 130, 64),
    (13, 33, 32),
    (31, 127, 32),
    (33, 129, 4096),
    (17, 256, 256),
    (130, 576, 64),
    (520, 40, 32),
    (40, 1100, 128),
]
UNIT = 2.0**-24  # unit roundoff of float32


def gamma(n: int) -> float:
    """Higham, Accuracy and Stability of Numerical Algorithms, section 3.1."""
    return n * UNIT / (1 - n * UNIT)


def packed_weight(n: int, k: int, blocksize: int, quant_type: str = "nf4"):
    weight = np.random.default_rng(n + k).standard_normal((n, k)).astype(np.float32)
    codes, absmax = definition.quantize_4bit(weight, blocksize, quant_type)
    return codes, absmax, definition.dequantize_4bit(codes, absmax, k, blocksize, quant_type)


def random_bits(seed: int, *shape: int) -> np.ndarray:
    return bfloat16.to_bits(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def forward(x, codes, absmax, bias, n, k, blocksize, quant_type="nf4", **options) -> np.ndarray:
    out = np.full((len(x), n), 0x7FC0, np.uint16)
    added = None if bias is None else bfloat16.argument(bias)
    shape = (len(x), n, k, blocksize, quant_type)
    kq_kernels.linear_4bit(
        bfloat16.argument(x), codes, absmax, added, bfloat16.argument(out), *shape, **options
    )
    return out


def backward(grad, codes, absmax, n, k, blocksize, quant_type="nf4", **options) -> np.ndarray:
    out = np.full((len(grad), k), 0x7FC0, np.uint16)
    shape = (len(grad), n, k, blocksize, quant_type)
    kq_kernels.linear_4bit_backward(
        bfloat16.argument(grad), codes, absmax, bfloat16.argument(out), *shape, **options
    )
    return out


def within_bound(y, x, w, bias, extra: int) -> bool:
    """Between the ends of exact -+ gamma * (|x| |w| + |bias|), which are rounded as y is: `extra`
    roundings besides those of the sum, of the decoded weight, its product, halves of the sum and
    the bias."""
    wide = bfloat16.values(x).astype(np.float64)
    exact = wide @ w.astype(np.float64).T + bias
    size = np.abs(wide) @ np.abs(w).astype(np.float64).T + np.abs(bias)
    error = gamma(x.shape[1] + extra) * size
    got = bfloat16.values(y)
    low, high = (bfloat16.rounded((exact + way * error).astype(np.float32)) for way in (-1, 1))
    return bool(np.all((low <= got) & (got <= high)))


def weights_of(isa: str, weight: np.ndarray, m: int, few: int) -> np.ndarray:
    """What the kernel multiplies with: tiles take weights in bfloat16."""
    return bfloat16.rounded(weight) if isa == "amx" and m > few else weight


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k", "blocksize"), WEIGHTS)
def test_linear_4bit(isa, m, n, k, blocksize) -> None:
    codes, absmax, weight = packed_weight(n, k, blocksize)
    x, bias = random_bits(m, m, k), random_bits(m + 1, n)
    used = weights_of(isa, weight, m, few=2)
    for added in (None, bias):
        y = forward(x, codes, absmax, added, n, k, blocksize)
        term = np.zeros(n) if added is None else bfloat16.values(added).astype(np.float64)
        assert within_bound(y, x, used, term, extra=4)


@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize(("n", "k", "blocksize"), WEIGHTS)
def test_linear_4bit_backward(isa, m, n, k, blocksize) -> None:
    codes, absmax, weight = packed_weight(n, k, blocksize, "fp4")
    grad = random_bits(m, m, n)
    used = np.ascontiguousarray(weights_of(isa, weight, m, few=0).T)
    out = backward(grad, codes, absmax, n, k, blocksize, "fp4")
    assert within_bound(out, grad, used, np.zeros(k), extra=4)


def test_more_rows_than_one_pass_takes_and_more_outputs_than_a_block(isa) -> None:
    m, n, k = 1030, 300, 96
    codes, absmax, weight = packed_weight(n, k, 32)
    x, grad = random_bits(0, m, k), random_bits(1, m, n)
    used = weights_of(isa, weight, m, few=2)
    assert within_bound(forward(x, codes, absmax, None, n, k, 32), x, used, np.zeros(n), extra=4)
    out = backward(grad, codes, absmax, n, k, 32)
    assert within_bound(out, grad, np.ascontiguousarray(used.T), np.zeros(k), extra=4)


@pytest.mark.parametrize("m", [9, 16, 17, 40, 64, 65, 513])
def test_a_row_does_not_depend_on_the_others(isa, m) -> None:
    # From 9 rows on; up to 8 are few for one instruction set or another (tables.cpp).
    n, k = 70, 1100
    codes, absmax, _ = packed_weight(n, k, 64)
    x, grad = random_bits(0, 520, k), random_bits(1, 520, n)
    whole = forward(x, codes, absmax, None, n, k, 64)
    np.testing.assert_array_equal(forward(x[:m], codes, absmax, None, n, k, 64), whole[:m])
    whole = backward(grad, codes, absmax, n, k, 64)
    np.testing.assert_array_equal(backward(grad[:m], codes, absmax, n, k, 64), whole[:m])


@pytest.mark.parametrize("m", [1, 5, 40, 70])
def test_threads_do_not_change_a_bit(isa, m) -> None:
    n, k = 390, 520
    codes, absmax, _ = packed_weight(n, k, 64)
    x, grad = random_bits(0, m, k), random_bits(1, m, n)
    results = {
        forward(x, codes, absmax, None, n, k, 64, threads=threads).tobytes()
        + backward(grad, codes, absmax, n, k, 64, threads=threads).tobytes()
        for threads in (1, 2, 3, 5)
    }
    assert len(results) == 1


@pytest.mark.parametrize("m", [3, 20])
@pytest.mark.parametrize("k", [33, 96])
def test_what_is_not_finite_stays_where_it_is(isa, m, k) -> None:
    # Beyond the last column and row there is nothing that an infinity could be multiplied with.
    n = 21
    codes, absmax, _ = packed_weight(n, k, 32)
    absmax[2, -1], absmax[n - 1, 0] = np.inf, np.nan
    x, grad = random_bits(0, m, k), random_bits(1, m, n)
    x[1, k - 1] = grad[1, 3] = bfloat16.to_bits(np.array([np.inf], np.float32))[0]
    y = bfloat16.values(forward(x, codes, absmax, None, n, k, 32))
    finite = np.ones((m, n), bool)
    finite[1] = finite[:, [2, n - 1]] = False
    np.testing.assert_array_equal(np.isfinite(y), finite)
    assert np.isnan(y[:, n - 1]).all()
    if k == 33 and m == 20:
        # The last block is one weight, which is not zero. (For few rows, scales multiply sums,
        # among them those of what is beyond the row: zero.)
        assert np.isinf(np.delete(y[:, 2], 1)).all()
    out = bfloat16.values(backward(grad, codes, absmax, n, k, 32))
    assert not np.isfinite(out[1]).any()
    finite = np.ones((m, k), bool)
    finite[1] = finite[:, :32] = finite[:, (k - 1) // 32 * 32 :] = False
    np.testing.assert_array_equal(np.isfinite(out), finite)


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
    x, grad = random_bits(0, m, k), random_bits(1, m, n)
    more = {"nested_absmax": nested, "nested_code": code, "offset": offset}
    np.testing.assert_array_equal(
        forward(x, codes, scale_codes, None, n, k, blocksize, **more),
        forward(x, codes, scales, None, n, k, blocksize),
    )
    np.testing.assert_array_equal(
        backward(grad, codes, scale_codes, n, k, blocksize, **more),
        backward(grad, codes, scales, n, k, blocksize),
    )


def test_an_empty_reduction_gives_the_bias(isa) -> None:
    bias = random_bits(0, 3)
    for m in (1, 20):
        empty = np.empty((m, 0), np.uint16)
        y = forward(empty, np.empty((3, 0), np.uint8), np.empty((3, 0), np.float32), bias, 3, 0, 64)
        np.testing.assert_array_equal(y, np.tile(bias, (m, 1)))
        out = backward(empty, np.empty((0, 32), np.uint8), np.empty((0, 1), np.float32), 0, 64, 64)
        assert not out.any()
