"""What is particular to tiles (AMX), those of the processor or their model.

The model is the build option KQ_AMX_MODEL.
"""

from __future__ import annotations

import os
import subprocess
import sys

import bfloat16
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
