"""Every rule: 8-bit state is exactly what 32-bit state is, decoded before and encoded after."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

BLOCK = 256
SIGNED, UNSIGNED = definition.dynamic_map(signed=True), definition.dynamic_map(signed=False)
# Signs of the states, hyperparameters.
RULES = {
    "momentum": ("s", [0.9, 0.1, 1]),
    "adam": ("su", [0.9, 0.99, 1e-8]),
    "amsgrad": ("suu", [0.9, 0.99, 1e-8]),
    "ademamix": ("ssu", [0.9, 0.99, 0.999, 5.0, 1e-8, 100, 100]),
    "lion": ("s", [0.9, 0.99]),
    "rmsprop": ("u", [0.99, 1e-8]),
    "rmsprop_momentum": ("us", [0.99, 1e-8, 0.9]),
    "rmsprop_centered": ("us", [0.99, 1e-2]),
    "rmsprop_centered_momentum": ("uss", [0.99, 1e-2, 0.9]),
    "adagrad": ("u", [0.01, 1e-10]),
    "lamb": ("su", [0.9, 0.99, 1e-8, 1]),
    "lamb_clipped": ("su", [0.9, 0.99, 1e-8, 0.5]),
    "lars": ("s", [0.9, 0, 0, 1e-8, 0.01]),
    "lars_clipped": ("s", [0.9, 0, 0, 0.5]),
}
SIZES = [1, 63, 64, 255, 256, 257, 3000]
OTHER = np.linspace(-1, 1, 256).astype(np.float32)  # no dynamic map: any ascending map will do


def spread(scales: np.ndarray, size: int) -> np.ndarray:
    return np.repeat(scales, BLOCK)[:size]


@pytest.mark.parametrize("maps", ["dynamic", "other"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("rule", RULES)
def test_coded_state(isa, rule, dtype, maps) -> None:
    signs, hyper = RULES[rule]
    books = [{"s": SIGNED, "u": UNSIGNED}[s] if maps == "dynamic" else OTHER for s in signs]
    rng = np.random.default_rng(len(rule))
    params = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    grads = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    codes, absmax, states = [], [], []
    for book, sign in zip(books, signs, strict=True):
        for n in SIZES:
            lowest = 128 if sign == "u" and maps == "other" else 0
            code = rng.integers(lowest, 256, n, dtype=np.uint8)
            scale = rng.uniform(0.5, 2, -(-n // BLOCK)).astype(np.float32)
            codes.append(code)
            absmax.append(scale)
            states.append(book[code] * spread(scale, n))
    others = [p.copy() for p in params]
    steps = list(range(1, len(SIZES) + 1))
    options = {"lr": 1e-2, "weight_decay": 0.1, "grad_scale": 3.0, "maximize": True}

    kq_kernels.optimizer_step_8bit(
        rule, params, grads, codes, absmax, books, steps, hyper, **options
    )
    kq_kernels.optimizer_step_32bit(rule, others, grads, states, steps, hyper, **options)
    for p, other in zip(params, others, strict=True):
        np.testing.assert_array_equal(p, other)
    for i, (state, code, scale) in enumerate(zip(states, codes, absmax, strict=True)):
        padded = np.pad(state, (0, -state.size % BLOCK)).reshape(-1, BLOCK)
        np.testing.assert_array_equal(scale, np.abs(padded).max(axis=1))
        expected = definition.nearest(padded, scale[:, None], books[i // len(SIZES)], BLOCK)
        np.testing.assert_array_equal(code, expected.reshape(-1)[: code.size])


@pytest.mark.parametrize("rule", ["lamb", "lamb_clipped", "lars", "lars_clipped"])
def test_norms_do_not_depend_on_threads(isa, rule) -> None:
    signs, hyper = RULES[rule]
    results = []
    for threads in (1, 2, 3):
        rng = np.random.default_rng(1)
        sizes = [300_000, 5, 70_000]
        params, grads = ([rng.standard_normal(n).astype(np.float32) for n in sizes] for _ in "pg")
        states = [np.zeros(n, np.float32) for _ in signs for n in sizes]
        kq_kernels.optimizer_step_32bit(
            rule, params, grads, states, [1, 1, 1], hyper, 1e-2, threads=threads
        )
        results.append(b"".join(a.tobytes() for a in [*params, *states]))
    assert len(set(results)) == 1


def test_sgd(isa) -> None:
    p, g = np.ones(300, np.float32), np.linspace(-1, 1, 300).astype(np.float32)
    kq_kernels.optimizer_step_32bit("sgd", [p], [g], [], [1], [], 0.5)
    np.testing.assert_array_equal(p, 1 - np.float32(0.5) * g)
