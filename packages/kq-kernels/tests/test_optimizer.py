"""The fused steps: Adam against float64, within derived errors; rules with 8-bit state against 32."""

from __future__ import annotations

import kernel_definition as definition
import numpy as np
import pytest

import kq_kernels

BLOCK = 256
UNIT = 2.0**-24
HYPER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
MOMENTS = [HYPER["beta1"], HYPER["beta2"], HYPER["eps"]]
OPTIONS = {"lr": HYPER["lr"], "weight_decay": HYPER["weight_decay"]}
MAPS = [definition.dynamic_map(signed=True), definition.dynamic_map(signed=False)]


def state(size: int, rng: np.random.Generator):
    """Codes and scales of both moments, as a run in progress has them."""
    blocks = -(-size // BLOCK)
    codes = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(2)]
    absmax = [rng.uniform(0.5, 2, blocks).astype(np.float32) * scale for scale in (0.1, 0.01)]
    return codes, [a.astype(np.float32) for a in absmax]


def decode(codes, absmax, code):
    return (code[codes] * np.repeat(absmax, BLOCK)[: codes.size]).astype(np.float64)


def reference(p, g, moments, step, *, decoupled, maximize):
    """New parameter and moments in float64 from the same decoded state."""
    h = HYPER
    p, g = p.astype(np.float64), g.astype(np.float64) * (-1 if maximize else 1)
    if decoupled:
        p = p * (1 - h["lr"] * h["weight_decay"])
    else:
        g = g + h["weight_decay"] * p
    m = h["beta1"] * moments[0] + (1 - h["beta1"]) * g
    v = h["beta2"] * moments[1] + (1 - h["beta2"]) * g * g
    c1, c2 = 1 - h["beta1"] ** step, np.sqrt(1 - h["beta2"] ** step)
    return p, m, v, p - h["lr"] * c2 / c1 * m / (np.sqrt(v) + h["eps"] * c2)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("sizes", [[256], [1000, 3, 5000], [255, 257], [0, 1]])
def test_step(isa, sizes, decoupled, maximize) -> None:
    rng = np.random.default_rng(sum(sizes))
    params = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    grads = [rng.standard_normal(n).astype(np.float32) for n in sizes]
    states = [state(n, rng) for n in sizes]
    steps = list(range(1, len(sizes) + 1))
    before = [p.copy() for p in params]
    moments = [[decode(c, a, m) for c, a, m in zip(*s, MAPS, strict=True)] for s in states]

    kq_kernels.optimizer_step_8bit(
        "adam", params, grads, [s[0][0] for s in states] + [s[0][1] for s in states],
        [s[1][0] for s in states] + [s[1][1] for s in states], MAPS, steps, MOMENTS,
        decoupled=decoupled, maximize=maximize, **OPTIONS,
    )  # fmt: skip

    for p, g, old, (codes, absmax), decoded, t in zip(
        before, grads, params, states, moments, steps, strict=True
    ):
        decayed, m, v, new = reference(p, g, decoded, t, decoupled=decoupled, maximize=maximize)
        # m is a sum of two products: the inputs carry one rounding (decoding, coupled decay), the
        # constants one, the operations three.
        m_size = np.abs(decoded[0]) * 0.9 + np.abs(m - 0.9 * decoded[0])
        m_error = 6 * UNIT * m_size
        # v is a sum of non-negative products, one of them a square: relative error 8 units. The
        # quotient m / (sqrt(v) + eps): half of v's, and four for the root, the sum, the quotient
        # and the constant; the product with the step size two more, the difference one of p's size.
        ratio = np.abs(new - decayed)
        scale = np.where(np.abs(m) > 0, m_error / np.maximum(np.abs(m), 1e-300), 0)
        bound = ratio * (scale + 10 * UNIT) + 4 * UNIT * (np.abs(decayed) + ratio)
        assert np.all(np.abs(old - new) <= bound + 1e-12 * UNIT)

        for i, (exact, error) in enumerate([(m, m_error), (v, 8 * UNIT * v)]):
            check_codes(codes[i], absmax[i], exact, error, MAPS[i])


def check_codes(codes, absmax, exact, error, code) -> None:
    """Scales within the error of their largest element, codes nearest to a possible value."""
    middles = (code[:-1].astype(np.float64) + code[1:]) / 2
    for b in range(len(absmax)):
        part = slice(b * BLOCK, (b + 1) * BLOCK)
        largest = np.abs(exact[part]).max()
        assert abs(absmax[b] - largest) <= error[part].max()
        low = ((exact[part] - error[part])[:, None] > middles * np.float64(absmax[b])).sum(axis=1)
        high = ((exact[part] + error[part])[:, None] > middles * np.float64(absmax[b])).sum(axis=1)
        assert np.all((low <= codes[part]) & (codes[part] <= high))


def test_a_fresh_state_takes_a_step_of_the_learning_rate(isa) -> None:
    # Adam's first step is lr * sign(gradient) up to eps; the moments start as zeros of scale zero.
    p, g = np.ones(600, np.float32), np.linspace(-1, 1, 600).astype(np.float32)
    codes = [np.zeros(600, np.uint8) for _ in range(2)]
    absmax = [np.zeros(3, np.float32) for _ in range(2)]
    kq_kernels.optimizer_step_8bit(
        "adam", [p], [g], codes, absmax, MAPS, [1], [0.9, 0.999, 0.0], 1e-3
    )
    np.testing.assert_allclose(p, 1 - 1e-3 * np.sign(g), rtol=4 * UNIT)


def test_non_finite_gradients_show(isa) -> None:
    p, g = np.ones(512, np.float32), np.zeros(512, np.float32)
    g[3] = np.nan
    codes = [np.zeros(512, np.uint8) for _ in range(2)]
    absmax = [np.zeros(2, np.float32) for _ in range(2)]
    kq_kernels.optimizer_step_8bit(
        "adam", [p], [g], codes, absmax, MAPS, [1], MOMENTS, decoupled=True, **OPTIONS
    )
    assert np.isnan(p[3])
    assert np.isfinite(np.delete(p, 3)).all()
    assert np.isnan(absmax[0][0])
    assert absmax[0][1] == 0
    assert absmax[0].view(np.uint32)[0] == 0x7FC00000


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_threads_do_not_change_a_bit(isa, dtype) -> None:
    results = []
    for threads in (1, 2, 3):
        rng = np.random.default_rng(0)
        sizes = [40000, 17, 3000]
        params = [rng.standard_normal(n).astype(dtype) for n in sizes]
        grads = [rng.standard_normal(n).astype(dtype) for n in sizes]
        states = [state(n, rng) for n in sizes]
        codes = [s[0][i] for i in range(2) for s in states]
        absmax = [s[1][i] for i in range(2) for s in states]
        kq_kernels.optimizer_step_8bit(
            "adam", params, grads, codes, absmax, MAPS, [1, 2, 3], MOMENTS,
            decoupled=True, threads=threads, **OPTIONS,
        )  # fmt: skip
        results.append(b"".join(a.tobytes() for a in [*params, *codes, *absmax]))
    assert len(set(results)) == 1
