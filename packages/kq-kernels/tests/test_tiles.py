"""What is particular to tiles (AMX), those of the processor or their model.

The model is the build option KQ_AMX_MODEL.
"""

from __future__ import annotations

import os
import subprocess
import sys

import bfloat16
import int8_definition
import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

pytestmark = pytest.mark.skipif(
    "amx" not in kq_kernels.available_isas(),
    reason="neither has this processor tiles nor was kq-kernels built with their model",
)
CHUNK, TILE = 128, 32  # forward: codes decoded together; values of the reduced dimension of a tile


def product(x: np.ndarray, w: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """The sum in the order of TDPBF16PS (Intel SDM), 16 pairs of the reduced dimension to a tile.

    Products of two bfloat16 numbers are float32 numbers: a fused multiply-add is an addition.

    Args:
        x: float32 [M, K] of bfloat16 numbers.
        w: the same, [N, K].
        pairs: the K indices in the order in which they are summed up.
    """
    total = np.zeros((len(x), len(w)), np.float32)
    for start in range(0, len(pairs), TILE // 2):
        even, odd = np.zeros_like(total), np.zeros_like(total)
        for first, second in pairs[start : start + TILE // 2]:
            even = even + x[:, first, None] * w[:, first]
            odd = odd + x[:, second, None] * w[:, second]
        total = total + (even + odd)
    return total


@pytest.fixture
def operands() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    m, n, k = 19, 96, 2 * CHUNK
    weight = rng.standard_normal((n, k)).astype(np.float32)
    codes, absmax = definition.quantize_4bit(weight, 32, "nf4")
    dequantized = bfloat16.rounded(definition.dequantize_4bit(codes, absmax, k, 32, "nf4"))
    x, grad = (rng.standard_normal((m, size)).astype(np.float32) for size in (k, n))
    return codes, absmax, dequantized, bfloat16.to_bits(x), bfloat16.to_bits(grad)


def run(
    op, x: np.ndarray, codes: np.ndarray, absmax: np.ndarray, outputs: int, *bias
) -> np.ndarray:
    out = np.zeros((len(x), outputs), np.uint16)
    n, k = len(codes), 2 * codes.shape[1]
    with kq_kernels.use_isa("amx"):
        op(
            bfloat16.argument(x), codes, absmax, *bias, bfloat16.argument(out),
            len(x), n, k, 32, "nf4",
        )  # fmt: skip
    return out


def test_sums_are_in_the_order_of_the_manual(operands) -> None:
    codes, absmax, weight, x, grad = operands
    n, k = weight.shape
    pairs = [
        (chunk + 8 * pair + j, chunk + 8 * pair + 4 + j)
        for chunk in range(0, k, CHUNK)
        for j in range(4)
        for pair in range(16)
    ]
    assert sorted(sum(pairs, ())) == list(range(k))
    expected = product(bfloat16.values(x), weight, pairs)
    got = run(kq_kernels.linear_4bit, x, codes, absmax, n, None)
    np.testing.assert_array_equal(got, bfloat16.to_bits(expected))

    pairs = [(i, i + 1) for i in range(0, n, 2)]
    expected = product(bfloat16.values(grad), np.ascontiguousarray(weight.T), pairs)
    got = run(kq_kernels.linear_4bit_backward, grad, codes, absmax, k)
    np.testing.assert_array_equal(got, bfloat16.to_bits(expected))


def test_subnormal_numbers_count_as_zero(operands) -> None:
    codes, absmax, _, x, _ = operands
    tiny = np.full_like(x, 0x007F)  # the largest subnormal number
    assert not run(kq_kernels.linear_4bit, tiny, codes, absmax, len(codes), None).any()
    scales = np.full_like(absmax, np.float32(2.0**-127))
    assert not run(kq_kernels.linear_4bit, x, codes, scales, len(codes), None).any()


# Rows of x around tiles and panels, and around the most that are multiplied with W in place, 64.
INT8_ROWS = [7, 16, 17, 32, 33, 64, 65, 97]
# out, in: around tiles (16 x 64), units (32), what is finished together (128), blocks (256 x 1024)
INT8_WEIGHTS = [
    (1, 1), (15, 63), (16, 64), (17, 65), (31, 128), (32, 127), (33, 192), (64, 1024), (65, 1023),
    (96, 2111), (129, 200), (255, 64), (257, 65), (300, 1025),
]  # fmt: skip


def int8_product(a: np.ndarray, b: np.ndarray, **options) -> np.ndarray:
    out = np.full((len(a), len(b)), 7, np.int32)
    with kq_kernels.use_isa("amx"):
        kq_kernels.int8_linear_matmul(a, b, out, len(a), len(b), a.shape[1], **options)
    return out


@pytest.mark.parametrize("m", INT8_ROWS)
@pytest.mark.parametrize(("n", "k"), INT8_WEIGHTS)
def test_int8_sums_are_exact(m, n, k) -> None:
    rng = np.random.default_rng(m * n + k)
    a, b = (rng.integers(-128, 128, (size, k), dtype=np.int8) for size in (m, n))
    for threads in (1, 3):
        got = int8_product(a, b, threads=threads)
        np.testing.assert_array_equal(got, int8_definition.matmul(a, b))


@pytest.mark.parametrize("m", [40, 70])
def test_each_int8_product_of_a_tile_counts_once(m) -> None:
    """Column r of x meets column r of W, and nothing else."""
    k = 128
    a = np.zeros((m, k), np.int8)
    for row in range(m):
        a[row, (7 * row) % k] = -128 + row
    b = np.arange(64 * k, dtype=np.int64).reshape(64, k).astype(np.int8)
    columns = 7 * np.arange(m) % k
    expected = (np.arange(m)[:, None] - 128) * b.T[columns].astype(np.int32)
    np.testing.assert_array_equal(int8_product(a, b), expected)


@pytest.mark.parametrize("m", [40, 70])
@pytest.mark.parametrize("codes", [(-128, -128), (127, 127), (-127, 127), (127, -128)])
def test_the_longest_int8_sums_wrap_around(m, codes) -> None:
    k = 2**17
    a, b = (np.full((size, k), code, np.int8) for size, code in zip((m, 33), codes, strict=True))
    expected = np.int64(k * codes[0] * codes[1]).astype(np.int32)
    assert (int8_product(a, b) == expected).all()


@pytest.mark.parametrize("m", [7, 40, 70, 130])
@pytest.mark.parametrize(("n", "k"), [(33, 130), (300, 1100)])
def test_int8_results_are_those_with_vnni(m, n, k) -> None:
    """Sums are exact, and all else is the same arithmetic."""
    rng = np.random.default_rng(m + n)
    x = (3 * rng.standard_normal((m, k))).astype(np.float16)
    weight = rng.integers(-127, 128, (n, k), dtype=np.int8)
    absmax, bias = rng.random(n).astype(np.float32), rng.standard_normal(n).astype(np.float16)
    for threshold in (0.0, 9.0):
        results = []
        for name, threads in (("vnni", 1), ("amx", 1), ("amx", 3)):
            out = np.full((m, n), np.nan, np.float16)
            with kq_kernels.use_isa(name):
                kq_kernels.int8_linear(x, weight, absmax, bias, out, m, n, k, threshold, threads)
            results.append(out)
        np.testing.assert_array_equal(results[1], results[0])
        np.testing.assert_array_equal(results[2], results[0])


REFUSED = """
import ctypes, struct
# seccomp: the system call of x86-64 that asks for tiles, arch_prctl, fails with EPERM.
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, 158),
        (RETURN, 0, 0, 0x00050000 | 1),
        (RETURN, 0, 0, 0x7FFF0000),
    ]
)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(
    SECCOMP, FILTER, ctypes.byref(Filter(len(program) // 8, program)), 0, 0
):
    raise SystemExit("no seccomp")
import kq_kernels
print(*kq_kernels.available_isas(), kq_kernels.isa())
kq_kernels.set_isa("amx")
"""


def test_without_permission_the_next_best_runs() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "KQ_CPU_ISA"}
    result = subprocess.run(
        [sys.executable, "-c", REFUSED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "no seccomp" in result.stderr:
        pytest.skip("this sandbox does not let a process refuse system calls")
    others = [name for name in kq_kernels.available_isas() if name != "amx"]
    assert result.stdout.split() == [*others, others[-1]]
    assert "ValueError: isa: 'amx' cannot run here" in result.stderr
