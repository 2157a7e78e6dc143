"""One step by every rule against float64, with bounds from running error analysis."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from declared import need
from rule_formulas import FORMULAS, reference
from running_error import Approx, within
from torch import Tensor

import kq_functional as kq

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MOMENTS = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
HEAVY = {"momentum": 0.9, "dampening": 0.0, "nesterov": 0}
SQUARES = {"alpha": 0.9, "eps": 1e-8}
MIXED = MOMENTS | {"beta3": 0.999, "alpha": 5.0, "t_alpha": 0, "t_beta3": 0}
HYPER: dict[str, list[dict[str, float]]] = {
    "sgd": [{}],
    "momentum": [
        HEAVY,
        {"momentum": 0.5, "dampening": 0.25, "nesterov": 0},
        HEAVY | {"nesterov": 1},
    ],
    "adam": [MOMENTS, {"beta1": 0.0, "beta2": 0.5, "eps": 1e-2}],
    "amsgrad": [MOMENTS],
    "ademamix": [MIXED, MIXED | {"t_alpha": 100, "t_beta3": 100}],
    "lion": [{"beta1": 0.9, "beta2": 0.99}],
    "rmsprop": [SQUARES],
    "rmsprop_momentum": [SQUARES | {"momentum": 0.9}],
    "rmsprop_centered": [{"alpha": 0.9, "eps": 1e-2}],
    "rmsprop_centered_momentum": [{"alpha": 0.9, "eps": 1e-2, "momentum": 0.9}],
    "adagrad": [{"lr_decay": 0.0, "eps": 1e-10}, {"lr_decay": 0.1, "eps": 1e-10}],
    "lamb": [MOMENTS | {"bias_correction": 1}, MOMENTS | {"bias_correction": 0}],
    "lamb_clipped": [MOMENTS | {"max_unorm": 0.1}, MOMENTS | {"max_unorm": 1e6}],
    "lars": [HEAVY | {"eps": 1e-8, "trust_coefficient": 0.01}],
    "lars_clipped": [HEAVY | {"max_unorm": 0.1}, HEAVY | {"nesterov": 1, "max_unorm": 1e6}],
}
COMMON: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled": True},
    {"weight_decay": 0.1, "maximize": True, "grad_scale": 3.0},
]
CASES = [
    pytest.param(rule, {"lr": 1e-2} | common | hyper, id=f"{rule}-{i}-{j}")
    for rule in HYPER
    for (i, hyper), (j, common) in product(enumerate(HYPER[rule]), enumerate(COMMON))
    if not (common.get("decoupled") and rule.startswith("lars"))
]
EIGHT_BIT = [case for case in CASES if case.values[0] != "sgd"]


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def states_of(rule: str, shape: tuple[int, ...]) -> list[Tensor]:
    """Signed ones are about 0.1; a mean of squares is above the square of a mean, as it must be."""
    signed = kq.RULES[rule].signed
    return [
        numbers(shape, 5 + k) / 10 if s else numbers(shape, 5 + k) ** 2 + 0.1
        for k, s in enumerate(signed)
    ]


def code_map(signed: bool) -> Tensor:
    return kq.create_dynamic_map(signed=signed)


def encode(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    codes, state = kq.quantize_blockwise(values, code, blocksize=256, layout="flat")
    return codes, state.absmax


def decode(codes: Tensor, absmax: Tensor, code: Tensor) -> Tensor:
    scale = absmax.repeat_interleave(256)[: codes.numel()].view(codes.shape)
    return code[codes.int()] * scale


def is_encoded(moment: Approx, codes: Tensor, absmax: Tensor, code: Tensor) -> bool:
    """Whether scales are within the error, and every code is nearest to a value within it."""
    for block, error, scale in zip(
        moment.value.flatten().split(256), moment.error.flatten().split(256), absmax, strict=True
    ):
        if abs(block.abs().max() - scale) > error.max():
            return False
    scale = absmax.repeat_interleave(256)[: codes.numel()].view(codes.shape).double()
    middle = (code[1:].double() + code[:-1].double()) / 2
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    upper = torch.cat((middle, infinity))[codes.int()] * scale
    lower = torch.cat((-infinity, middle))[codes.int()] * scale
    below, above = moment.value - moment.error <= upper, moment.value + moment.error >= lower
    return bool((below & above).all())


def test_every_rule_is_here() -> None:
    assert list(HYPER) == list(FORMULAS) == list(kq.RULES)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize(("rule", "options"), CASES)
def test_32bit_step(rule: str, options: dict[str, Any], step: int, dtype: torch.dtype) -> None:
    need("optimizer_step_32bit", rule, dtype)
    shape = (7, 40)
    param, grad = numbers(shape, 3).to(dtype), numbers(shape, 4).to(dtype)
    states = states_of(rule, shape)
    expected, new = reference(rule, param, grad, states, step, options)
    kq.optimizer_step_32bit(rule, [param], [grad], states, [step], **options)
    assert within(param, expected if dtype == torch.float32 else expected.rounded(dtype))
    assert all(within(state, bound) for state, bound in zip(states, new, strict=True))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "step"), [((3, 300), 1), ((256,), 50), ((5,), 9)])
@pytest.mark.parametrize(("rule", "options"), EIGHT_BIT)
def test_8bit_step(
    rule: str, options: dict[str, Any], shape: tuple[int, ...], step: int, dtype: torch.dtype
) -> None:
    need("optimizer_step_8bit", rule, dtype)
    param, grad = numbers(shape, 3).to(dtype), numbers(shape, 4).to(dtype)
    maps = [code_map(signed) for signed in kq.RULES[rule].signed]
    stored = [encode(s, code) for s, code in zip(states_of(rule, shape), maps, strict=True)]
    codes, absmax = [s[0] for s in stored], [s[1] for s in stored]
    # Decoding is exactly one float32 product, so both sides start from identical states.
    states = [decode(*state, code) for state, code in zip(stored, maps, strict=True)]
    expected, new = reference(rule, param, grad, states, step, options)
    kq.optimizer_step_8bit(rule, [param], [grad], codes, absmax, maps, [step], **options)
    assert within(param, expected if dtype == torch.float32 else expected.rounded(dtype))
    assert all(map(is_encoded, new, codes, absmax, maps))
