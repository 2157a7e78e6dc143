"""The products of many experts: the bits of one product for each expert, to rows and scales."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

COUNTS = [
    [0, 3, 0, 21, 0, 0, 1, 5, 0],
    [1, 1, 1],
    [0, 40],
    [0, 0],
    [7],
    [],
    [1, 0, 2, 9] * 16,  # enough that threads take whole experts
]


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def nested(blocks: int) -> tuple[np.ndarray, ...]:
    """Scale codes, nested_absmax, nested_code and offset of so many blocks, and what they mean."""
    rng = np.random.default_rng(blocks)
    codes = rng.integers(0, 256, blocks, dtype=np.uint8)
    absmax = rng.random(-(-blocks // 256)).astype(np.float32)
    code, offset = definition.dynamic_map(signed=True), np.array([1.5], np.float32)
    scales = (code[codes] * absmax[np.arange(blocks) // 256] + offset).astype(np.float32)
    return codes, absmax, code, offset, scales


@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_bits_of_one_product_for_each_expert(isa, counts, double, gap) -> None:
    n, k, blocksize = 23, 131, 32  # nested blocks straddle experts, codes are padded
    experts, blocks, rows = len(counts), n * -(-k // blocksize), sum(counts)
    rng = np.random.default_rng(experts)
    codes = rng.integers(0, 256, (experts, n, (k + 1) // 2), dtype=np.uint8)
    scale_codes, *parts, scales = nested(experts * blocks)
    given = [scale_codes, *parts] if double else [scales, None, None, None]
    bias = samples(experts, n)
    x, grad = samples(rows, k + gap), samples(rows, n + gap)
    y, grad_x = np.full((rows, n), np.nan, np.float32), np.full((rows, k), np.nan, np.float32)
    shape = (counts, n, k, blocksize, "nf4")
    seen_x, seen_grad = (each.reshape(-1)[: max(each.size - gap, 0)] for each in (x, grad))
    kq_kernels.linear_4bit_grouped(
        *(seen_x, codes, given[0], bias, y, *shape, *given[1:]), threads=2, row_stride=k + gap
    )
    kq_kernels.linear_4bit_grouped_backward(
        *(seen_grad, codes, given[0], grad_x, *shape, *given[1:]), threads=2, row_stride=n + gap
    )
    start = 0
    for expert, m in enumerate(counts):
        own = slice(start, start + m)
        start += m
        absmax = scales[expert * blocks : (expert + 1) * blocks]
        expected_y, expected_grad = np.empty_like(y[own]), np.empty_like(grad_x[own])
        sizes = (m, n, k, blocksize, "nf4")
        kq_kernels.linear_4bit(
            np.ascontiguousarray(x[own, :k]),
            codes[expert],
            absmax,
            bias[expert],
            expected_y,
            *sizes,
        )
        kq_kernels.linear_4bit_backward(
            np.ascontiguousarray(grad[own, :n]), codes[expert], absmax, expected_grad, *sizes
        )
        np.testing.assert_array_equal(y[own], expected_y)
        np.testing.assert_array_equal(grad_x[own], expected_grad)


@pytest.mark.parametrize(
    ("counts", "n", "k"), [([1, 0, 17, 40], 390, 520), ([1, 0, 3, 2, 21] * 8, 70, 130)], ids=str
)
def test_threads_do_not_change_a_bit(isa, counts, n, k) -> None:
    experts, rows = len(counts), sum(counts)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (experts, n, k // 2), dtype=np.uint8)
    absmax = rng.random((experts, n, -(-k // 64))).astype(np.float32)
    x, grad = samples(rows, k), samples(rows, n)
    results = []
    for threads in (1, 2, 3, 5):
        y, g = np.empty((rows, n), np.float32), np.empty((rows, k), np.float32)
        shape = (counts, n, k, 64, "fp4")
        kq_kernels.linear_4bit_grouped(x, codes, absmax, None, y, *shape, threads=threads)
        kq_kernels.linear_4bit_grouped_backward(grad, codes, absmax, g, *shape, threads=threads)
        results.append(y.tobytes() + g.tobytes())
    assert len(set(results)) == 1
