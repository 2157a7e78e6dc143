"""The formulas that the rules are held to give what torch.optim gives, all in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rule_formulas import reference

import kq_functional as kq

MOMENTS = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
BETAS = {"betas": (0.9, 0.99), "eps": 1e-8}
HEAVY = {"momentum": 0.9, "dampening": 0.0, "nesterov": 0}
SQUARES = {"alpha": 0.9, "eps": 1e-2}

CASES: list[tuple[str, dict[str, float], type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", {}, torch.optim.SGD, {}),
    ("momentum", HEAVY, torch.optim.SGD, {"momentum": 0.9}),
    ("momentum", HEAVY | {"nesterov": 1}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (
        "momentum",
        HEAVY | {"dampening": 0.25},
        torch.optim.SGD,
        {"momentum": 0.9, "dampening": 0.25},
    ),
    ("adam", MOMENTS, torch.optim.Adam, BETAS),
    ("adam", MOMENTS | {"decoupled": True}, torch.optim.AdamW, BETAS),
    ("amsgrad", MOMENTS, torch.optim.Adam, BETAS | {"amsgrad": True}),
    ("amsgrad", MOMENTS | {"decoupled": True}, torch.optim.AdamW, BETAS | {"amsgrad": True}),
    ("rmsprop", SQUARES, torch.optim.RMSprop, SQUARES),
    (
        "rmsprop_momentum",
        SQUARES | {"momentum": 0.9},
        torch.optim.RMSprop,
        SQUARES | {"momentum": 0.9},
    ),
    ("rmsprop_centered", SQUARES, torch.optim.RMSprop, SQUARES | {"centered": True}),
    (
        "rmsprop_centered_momentum",
        SQUARES | {"momentum": 0.9},
        torch.optim.RMSprop,
        SQUARES | {"centered": True, "momentum": 0.9},
    ),
    ("adagrad", {"lr_decay": 0.0, "eps": 1e-10}, torch.optim.Adagrad, {}),
    ("adagrad", {"lr_decay": 0.1, "eps": 1e-10}, torch.optim.Adagrad, {"lr_decay": 0.1}),
]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("rule", "hyper", "kind", "options"), CASES)
def test_formula(
    rule: str,
    hyper: dict[str, float],
    kind: type[torch.optim.Optimizer],
    options: dict[str, Any],
    weight_decay: float,
    maximize: bool,
) -> None:
    generator = torch.Generator().manual_seed(1)
    param = torch.nn.Parameter(torch.randn(100, generator=generator, dtype=torch.float64))
    p, states = param.detach().clone(), [torch.zeros(100).double() for _ in kq.RULES[rule].signed]
    common = {"lr": 0.01, "weight_decay": weight_decay, "maximize": maximize}
    optimizer = kind([param], **common, **options)
    for step in range(1, 6):
        param.grad = torch.randn(100, generator=generator, dtype=torch.float64)
        new, new_states = reference(rule, p, param.grad, states, step, common | hyper)
        p, states = new.value, [state.value for state in new_states]
        optimizer.step()
    # Five steps of a few dozen operations, each rounded to 53 bits; numbers are about 1.
    torch.testing.assert_close(param.detach(), p, rtol=1e-13, atol=1e-13)
