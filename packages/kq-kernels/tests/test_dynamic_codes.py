"""The dynamic maps in an optimizer step: every code and every threshold, to the bit."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest
from test_exact import SCALES, around, midpoints, rows_of

import kq_kernels

BLOCK = 256


def encoded(rule: str, grads: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of a state, [rows, 256], after the first step.

    That of momentum is the gradient; that of RMSprop, without a memory, its square.
    """
    hyper = {"momentum": [0.9, 0, 0], "rmsprop": [0, 1e-8]}[rule]
    p, g = np.zeros(grads.size, np.float32), grads.reshape(-1)
    codes, absmax = np.zeros(grads.size, np.uint8), np.zeros(len(grads), np.float32)
    kq_kernels.optimizer_step_8bit(rule, [p], [g], [codes], [absmax], [code], [1], hyper, 1e-3)
    return codes.reshape(grads.shape), absmax


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_nearest_at_every_threshold(isa, signed) -> None:
    code = definition.dynamic_map(signed)
    rng = np.random.default_rng(1)
    targets = np.concatenate(
        [midpoints(code), code, rng.uniform(-1, 1, 2000), 10 ** rng.uniform(-9, 0, 2000)]
    )
    odd = (rng.uniform(0.5, 1, 20) * 2.0 ** rng.integers(-60, 60, 20)).astype(np.float32)
    for scale in [*SCALES, *odd]:
        if signed:
            rule, grads = "momentum", rows_of(around(targets, scale), scale, BLOCK)
            values = grads
        else:
            root = np.sqrt(np.float32(scale))
            rule, grads = "rmsprop", rows_of(around(np.sqrt(np.abs(targets)), root), root, BLOCK)
            values = grads * grads
        codes, absmax = encoded(rule, grads, code)
        np.testing.assert_array_equal(absmax, np.abs(values).max(axis=1))
        expected = definition.nearest(values, absmax[:, None], code, BLOCK)
        np.testing.assert_array_equal(codes, expected, err_msg=repr(scale))


def test_negative_values_have_the_code_of_zero_in_an_unsigned_map(isa) -> None:
    code = definition.dynamic_map(signed=False)
    grads = np.random.default_rng(1).standard_normal((8, BLOCK)).astype(np.float32)
    codes, absmax = encoded("momentum", grads, code)
    np.testing.assert_array_equal(codes, definition.nearest(grads, absmax[:, None], code, BLOCK))
    assert not codes[grads < 0].any()


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
