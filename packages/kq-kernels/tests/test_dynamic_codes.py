"""The dynamic maps in an optimizer step: every code and every threshold, to the bit."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest
from test_exact import SCALES, around, midpoints, rows_of

import kq_kernels

BLOCK = 256


def encoded(signed: bool, values: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of values [rows, 256]: of momentum's buffer after its first step."""
    p, g = np.zeros(values.size, np.float32), values.reshape(-1)
    codes, absmax = np.zeros(values.size, np.uint8), np.zeros(len(values), np.float32)
    kq_kernels.optimizer_step_8bit(
        "momentum", [p], [g], [codes], [absmax], [code], [1], [0.9, 0, 0], 1e-3
    )
    return codes.reshape(values.shape), absmax


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_nearest_at_every_threshold(isa, signed) -> None:
    code = definition.dynamic_map(signed)
    rng = np.random.default_rng(1)
    targets = [midpoints(code), code, rng.uniform(-1, 1, 2000), 10 ** rng.uniform(-9, 0, 2000)]
    odd = (rng.uniform(0.5, 1, 20) * 2.0 ** rng.integers(-60, 60, 20)).astype(np.float32)
    for scale in [*SCALES, *odd]:
        values = around(np.concatenate(targets), np.float32(scale))
        x = rows_of(values if signed else np.abs(values), np.float32(scale), BLOCK)
        codes, absmax = encoded(signed, x, code)
        np.testing.assert_array_equal(absmax, scale)
        expected = definition.nearest(x, absmax[:, None], code, BLOCK)
        np.testing.assert_array_equal(codes, expected, err_msg=repr(scale))


@pytest.mark.parametrize("scale", [1.0, 1.37, 3e-30, 2.5e30])
def test_signed_codes_decode_to_the_bit(isa, scale) -> None:
    # Momentum 1 and dampening 1 leave the buffer as it is, and move the parameter by it.
    code, codes = definition.dynamic_map(signed=True), np.arange(256, dtype=np.uint8)
    p, absmax = np.zeros(256, np.float32), np.array([scale], np.float32)
    kq_kernels.optimizer_step_8bit(
        "momentum", [p], [p + 1], [codes.copy()], [absmax], [code], [2], [1, 1, 0], 1.0
    )
    np.testing.assert_array_equal(-p, code * np.float32(scale))


@pytest.mark.parametrize("scale", [1.0, 1.37, 3e-30, 2.5e30])
def test_unsigned_codes_decode_to_the_bit(isa, scale) -> None:
    # A block with one code has its value for a scale, if the gradient adds nothing.
    code, size = definition.dynamic_map(signed=False), 256 * BLOCK
    codes, absmax = np.zeros(size, np.uint8), np.full(256, scale, np.float32)
    codes[::BLOCK] = np.arange(256)
    p, g = np.zeros(size, np.float32), np.zeros(size, np.float32)
    kq_kernels.optimizer_step_8bit("adagrad", [p], [g], [codes], [absmax], [code], [1], [0, 1], 1.0)
    np.testing.assert_array_equal(absmax, code * np.float32(scale))
