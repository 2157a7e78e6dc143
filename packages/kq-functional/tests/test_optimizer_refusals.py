"""What the optimizer steps refuse, by the name of the argument; nothing has changed then."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import kq_functional as kq

P, G, B = torch.ones(300), torch.ones(300), torch.ones(300).bfloat16()
MAPS = [kq.create_dynamic_map(), kq.create_dynamic_map(signed=False)]
ADAM = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
HEAVY = {"momentum": 0.9, "dampening": 0.0, "nesterov": 0}
MIXED = ADAM | {"beta3": 0.999, "alpha": 5.0, "t_alpha": 0, "t_beta3": 0}
SQUARES = {"alpha": 0.9, "eps": 1e-8}
NAN, INF = math.nan, math.inf
SPARSE = torch.eye(300)[0].to_sparse()


def step(rule: str = "adam", hyper: dict[str, Any] | None = None, **changed: Any) -> Any:
    """A valid call of the 32-bit form, but for what is changed."""
    hyper = ADAM if hyper is None else hyper
    states = [P.clone() for _ in kq.RULES[rule].signed] if rule in kq.RULES else []
    arguments: dict[str, Any] = {
        "params": [P],
        "grads": [G],
        "states": states,
        "steps": [1],
        "lr": 1e-3,
    }
    return lambda: kq.optimizer_step_32bit(rule, **(arguments | hyper | changed))


def step_8bit(**changed: Any) -> Any:
    arguments: dict[str, Any] = {
        "rule": "adam",
        "params": [P],
        "grads": [G],
        "codes": [torch.zeros(300, dtype=torch.uint8) for _ in range(2)],
        "absmax": [torch.zeros(2) for _ in range(2)],
        "code_maps": MAPS,
        "steps": [1],
        "lr": 1e-3,
    }
    return lambda: kq.optimizer_step_8bit(**(arguments | ADAM | changed))


def without(hyper: dict[str, float], name: str) -> dict[str, float]:
    return {key: value for key, value in hyper.items() if key != name}


def correction(**changed: Any) -> list[Tensor]:
    return [torch.zeros(300, **({"dtype": torch.int8} | changed))]


CORRECTED = {"params": [B], "grads": [B], "rounding": "corrected"}
STOCHASTIC = {"params": [B], "grads": [B], "rounding": "stochastic"}
NUMBERS = ["lr", "weight_decay", "grad_scale"]

TYPE_ERRORS = [
    (step("sgd", ADAM), "rule 'sgd' takes no beta1"),
    (step("lion"), "rule 'lion' takes no eps"),
    *((step(hyper=without(ADAM, name)), f"{name} must be given") for name in ADAM),
    *((step(hyper=ADAM | {name: "1"}), f"{name} must be a float, got str") for name in ADAM),
    *((step(**{name: "1"}), f"{name} must be a float, got str") for name in NUMBERS),
    *((step(**{name: 1}), f"{name} must be a bool, got int") for name in ("decoupled", "maximize")),
    (step(params=P), "params must be a sequence, got Tensor"),
    (step(grads=[None]), r"grads\[0\] must be a Tensor, got NoneType"),
    (step(states=[P, 1]), r"states\[1\] must be a Tensor, got int"),
    (step(steps=[1.0]), r"steps\[0\] must be a int, got float"),
    (step(**STOCHASTIC, seeds=[0.5]), r"seeds\[0\] must be a int, got float"),
    (step(**CORRECTED, corrections=[None]), r"corrections\[0\] must be a Tensor"),
    (
        step(**CORRECTED, corrections=correction(dtype=torch.uint8)),
        r"corrections\[0\] must be int8",
    ),
    (step_8bit(codes=[1, 2]), r"codes\[0\] must be a Tensor"),
    (step_8bit(absmax=None), "absmax must be a sequence"),
    (step_8bit(code_maps=[None, None]), r"code_maps\[0\] must be a Tensor"),
]
FRACTION = (-0.1, 1.0, NAN, INF)
NEGATIVE = (-1e-9, NAN, INF, 2.0**127)
VALUES: list[tuple[str, dict[str, float], str, tuple[float, ...]]] = [
    ("adam", ADAM, "beta1", FRACTION),
    ("adam", ADAM, "beta2", FRACTION),
    ("adam", ADAM, "eps", NEGATIVE),
    ("ademamix", MIXED, "beta3", FRACTION),
    ("ademamix", MIXED, "alpha", NEGATIVE),
    ("ademamix", MIXED, "t_alpha", NEGATIVE),
    ("ademamix", MIXED, "t_beta3", NEGATIVE),
    ("momentum", HEAVY, "momentum", NEGATIVE),
    ("momentum", HEAVY, "dampening", (NAN, INF, 2.0**127, -(2.0**127) * 2)),
    ("momentum", HEAVY, "nesterov", (2, 0.5, NAN)),
    ("rmsprop", SQUARES, "alpha", FRACTION),
    ("rmsprop_momentum", SQUARES | {"momentum": 0.9}, "momentum", NEGATIVE),
    ("adagrad", {"lr_decay": 0.0, "eps": 0.0}, "lr_decay", NEGATIVE),
    ("lamb", ADAM | {"bias_correction": 1}, "bias_correction", (2, -1, NAN)),
    ("lamb_clipped", ADAM | {"max_unorm": 1.0}, "max_unorm", (0.0, -1.0, NAN, INF, 2.0**127)),
    ("lars", HEAVY | {"eps": 0.0, "trust_coefficient": 1.0}, "eps", NEGATIVE),
    ("lars", HEAVY | {"eps": 0.0, "trust_coefficient": 1.0}, "trust_coefficient", NEGATIVE),
]
VALUE_ERRORS = [
    (step("nadam"), "rule must be one of sgd, momentum, adam, .*, got 'nadam'"),
    (step(rule=None), "rule must be one of sgd, "),
    *(
        (step(rule, hyper | {name: value}), f"{name} must be .*, got {re.escape(str(value))}")
        for rule, hyper, name, values in VALUES
        for value in values
    ),
    *(
        (step(**{name: value}), f"{name} must be finite")
        for name in NUMBERS
        for value in (NAN, INF)
    ),
    *((step(grad_scale=value), "grad_scale must be finite and above 0") for value in (0.0, -1.0)),
    (
        step("lars", HEAVY | {"eps": 0.0, "trust_coefficient": 1.0}, decoupled=True),
        "decoupled must be False for rule 'lars', got True",
    ),
    (
        step("lars_clipped", HEAVY | {"max_unorm": 1.0}, decoupled=True),
        "decoupled must be False for rule 'lars_clipped'",
    ),
    (step(grads=[SPARSE]), r"grads\[0\] must be dense \(torch.strided\), got torch.sparse_coo"),
    (step(params=[SPARSE], grads=[SPARSE]), r"params\[0\] must be dense"),
    (step(rounding="up"), "rounding must be one of nearest, stochastic, corrected, got 'up'"),
    (step(rounding=None), "rounding must be one of .*, got None"),
    (step(params=[], grads=[], states=[], steps=[], rounding="up"), "rounding must be one of"),
    (step(rounding="stochastic", seeds=[1]), "rounding must be 'nearest' for params of float32"),
    (
        step(params=[P.half()], grads=[P.half()], rounding="corrected"),
        "rounding must be 'nearest' for params of float16",
    ),
    (step(seeds=[1]), "seeds must have 0 entries .* rounding 'nearest', got 1"),
    (step(**STOCHASTIC), "seeds must have 1 entries .* rounding 'stochastic', got 0"),
    (step(**STOCHASTIC, seeds=[2**63]), r"seeds\[0\] must fit in 64 bits"),
    (step(**STOCHASTIC, seeds=[-(2**63) - 1]), r"seeds\[0\] must fit in 64 bits"),
    (step(steps=[2**63]), r"steps\[0\] must fit in 64 bits"),
    (step(**CORRECTED), "corrections must have 1 entries .* rounding 'corrected', got 0"),
    (step(corrections=correction()), "corrections must have 0 entries"),
    (
        step(**CORRECTED, corrections=[torch.zeros(299, dtype=torch.int8)]),
        r"corrections\[0\] must have shape \(300,\), got \(299,\)",
    ),
    (
        step(**CORRECTED, corrections=[torch.zeros(600, dtype=torch.int8)[::2]]),
        r"corrections\[0\] must be contiguous",
    ),
    (
        step(**CORRECTED, corrections=correction(device="meta")),
        r"corrections\[0\] must be on cpu, got meta",
    ),
    (
        lambda: kq.optimizer_step_8bit("sgd", [P], [G], [], [], [], [1], lr=1e-3),
        "rule must have states to be kept in 8 bits, got 'sgd'",
    ),
    (step_8bit(codes=[torch.zeros(300, dtype=torch.uint8)]), "codes must have 2 entries"),
    (step_8bit(code_maps=[MAPS[0], MAPS[1].flip(0)]), r"code_maps\[1\] must be sorted"),
]


@pytest.mark.parametrize("grad_enabled", [True, False])  # through the dispatcher, or past it
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [(call, TypeError, message) for call, message in TYPE_ERRORS]
    + [(call, ValueError, message) for call, message in VALUE_ERRORS],
)
def test_refusals(call: Any, error: type[Exception], message: str, grad_enabled: bool) -> None:
    with torch.set_grad_enabled(grad_enabled), pytest.raises(error, match=message):
        call()
    assert (P == 1).all()
    assert (B == 1).all()
