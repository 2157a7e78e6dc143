"""Numbers at the edges of the rules: NaN, Inf, zero norms, no decay, a variance below zero."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from declared import need
from torch import Tensor

import kq_functional as kq

HEAVY = {"momentum": 0.0, "dampening": 0.0, "nesterov": 0}
LARS = HEAVY | {"eps": 0.0, "trust_coefficient": 0.5}
LAMB = {"beta1": 0.0, "beta2": 0.0, "eps": 1.0, "bias_correction": 0}
MIXED = {"beta2": 0.0, "alpha": 0.0, "eps": 1.0, "t_alpha": 0}


def step(
    rule: str, p: list[float], g: list[float], states: list[Tensor] | None = None, **options: Any
) -> list[float]:
    need("optimizer_step_32bit", rule)
    param = torch.tensor(p)
    if states is None:
        states = [torch.zeros(len(p)) for _ in kq.RULES[rule].signed]
    step_number = options.pop("step", 1)
    kq.optimizer_step_32bit(
        rule, [param], [torch.tensor(g)], states, [step_number], **({"lr": 1.0} | options)
    )
    return param.tolist()


@pytest.mark.usefixtures("backend")
def test_the_sign_of_lion() -> None:
    gradients = [0.5, -1e-30, 0.0, -0.0, math.inf, math.nan]
    found = step("lion", [0.0] * 6, gradients, beta1=0.0, beta2=0.0)
    assert found == pytest.approx([-1, 1, 0, 0, -1, math.nan], rel=0, abs=0, nan_ok=True)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_no_decay_adds_nothing(rule: str, decoupled: bool) -> None:
    """Not even 0 · Inf."""
    hyper = {"beta1": 0.0, "beta2": 0.0, "eps": 1.0} if rule == "adam" else {}
    found = step(rule, [math.inf, 1.0], [1.0, 1.0], decoupled=decoupled, **hyper)
    assert found[0] == math.inf


@pytest.mark.usefixtures("backend")
def test_a_variance_below_zero_counts_as_zero() -> None:
    """Rounded states can have a square of the mean above the mean of squares."""
    states = [torch.full((2,), 0.25), torch.ones(2)]
    found = step("rmsprop_centered", [0.0, 0.0], [1.0, -1.0], states, alpha=0.5, eps=0.5)
    # v = 0.625, mean = 1 and 0: variances −0.375 and 0.625.
    assert found == [-2.0, pytest.approx(1 / (0.625**0.5 + 0.5), rel=1e-6)]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("rule", "p", "g", "hyper", "expected"),
    [
        # ‖p‖ = 5, ‖g‖ = 10: the step is 0.5 · 5 / 10 of the gradient.
        ("lars", [3.0, 4.0], [6.0, 8.0], LARS, [1.5, 2.0]),
        ("lars", [0.0, 0.0], [6.0, 8.0], LARS, [-6.0, -8.0]),
        ("lars", [3.0, 4.0], [0.0, 0.0], LARS, [3.0, 4.0]),
        ("lars", [3.0, 4.0], [math.inf, 0.0], LARS, [math.nan, 4.0]),
        ("lars", [3.0, 4.0], [math.nan, 0.0], LARS, [math.nan, math.nan]),
        # u = g / (|g| + 1) has the norm 1, and the step that of p.
        ("lamb", [3.0, 4.0], [1.5, 4.0], LAMB, [0.0, 0.0]),
        ("lamb", [0.0, 0.0], [1.0, -1.0], LAMB, [-0.5, 0.5]),
        ("lamb", [3.0, 4.0], [0.0, 0.0], LAMB, [3.0, 4.0]),
        ("lamb", [3.0, math.inf], [1.0, 0.0], LAMB, [-math.inf, math.nan]),
        # The norm of the step is at most half that of p.
        ("lars_clipped", [3.0, 4.0], [6.0, 8.0], HEAVY | {"max_unorm": 0.5}, [1.5, 2.0]),
        ("lars_clipped", [3.0, 4.0], [0.6, 0.8], HEAVY | {"max_unorm": 0.5}, [2.4, 3.2]),
        ("lars_clipped", [0.0, 0.0], [6.0, 8.0], HEAVY | {"max_unorm": 0.5}, [0.0, 0.0]),
        ("lars_clipped", [3.0, 4.0], [0.0, 0.0], HEAVY | {"max_unorm": 0.5}, [3.0, 4.0]),
        ("lars_clipped", [3.0, 4.0], [math.nan, 0.0], HEAVY | {"max_unorm": 0.5}, [math.nan] * 2),
    ],
)
def test_norms(
    rule: str, p: list[float], g: list[float], hyper: dict[str, Any], expected: list[float]
) -> None:
    found = step(rule, p, g, **hyper)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("beta1", "beta3", "expected"),
    [
        (0.0, 0.81, 0.81**2),  # half-way between half-lives 0 and that of 0.81
        (0.0, 0.0, 0.0),
        (0.9, 0.0, 0.0),
        (0.9, 0.5, 0.5),  # never above beta3
    ],
)
def test_the_slow_decay_of_ademamix(beta1: float, beta3: float, expected: float) -> None:
    """In step 5 of 10; m2 goes from 1 to its decay, as the gradient is 0."""
    states = [torch.zeros(1), torch.ones(1), torch.zeros(1)]
    hyper = MIXED | {"beta1": beta1, "beta3": beta3, "t_beta3": 10}
    step("ademamix", [0.0], [0.0], states, step=5, **hyper)
    assert states[1].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("backend")
def test_a_factor_beyond_float32_is_infinite() -> None:
    assert step("sgd", [0.0, 1.0], [1.0, -1.0], lr=1e39) == [-math.inf, math.inf]
    # The norm of the step is 1e-42: the ratio of norms is beyond float32, too.
    found = step("lamb", [1.0, 1.0], [1e-42, 0.0], **LAMB)
    assert found == pytest.approx([-math.inf, math.nan], nan_ok=True)
