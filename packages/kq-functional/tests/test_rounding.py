"""How new bfloat16 parameters are stored, against the definitions in docs/FORMAT.md."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from declared import need
from torch import Tensor

import kq_functional as kq
from kq_functional.backends._torch_rounding import random_words, seed_key

LARGEST = 0x7F7F
INFINITY = 0x7F80
MAPS = [kq.create_dynamic_map()]
FORMS = ["optimizer_step_32bit", "optimizer_step_8bit"]


def descend(op: str, param: Tensor, grad: Tensor, step: int = 1, **options: Any) -> None:
    """p ← p − g in float32, by two rules; in its first step momentum is plain descent."""
    rule = "sgd" if op == "optimizer_step_32bit" else "momentum"
    need(op, rule, param.dtype, options["rounding"])
    if rule == "sgd":
        kq.optimizer_step_32bit(rule, [param], [grad], [], [step], lr=1.0, **options)
        return
    codes = [torch.zeros(param.shape, dtype=torch.uint8)]
    absmax = [torch.zeros(-(-param.numel() // 256))]
    hyper = {"momentum": 0.0, "dampening": 0.0, "nesterov": 0}
    kq.optimizer_step_8bit(
        rule, [param], [grad], codes, absmax, MAPS, [step], lr=1.0, **options, **hyper
    )


def bits_of(tensor: Tensor) -> list[int]:
    if tensor.dtype == torch.bfloat16:
        return [b & 0xFFFF for b in tensor.view(torch.int16).flatten().tolist()]
    return [b & 0xFFFFFFFF for b in tensor.view(torch.int32).flatten().tolist()]


def of_bits(bits: list[int], dtype: torch.dtype) -> Tensor:
    if dtype == torch.bfloat16:
        return torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(dtype)
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(dtype)


def same(found: int, expected: int) -> bool:
    """Equal bits, or both NaN, of bfloat16."""
    both = [bits & 0x7FFF for bits in (found, expected)]
    return found == expected or min(both) > INFINITY


def numbers(size: int) -> tuple[Tensor, Tensor]:
    """Parameters and gradients so much smaller that the difference is exact in float32."""
    generator = torch.Generator().manual_seed(2)
    param = torch.randn(size, generator=generator).bfloat16()
    return param, (param.float() * torch.rand(size, generator=generator) / 100).bfloat16()


def stochastic(p: float, bits: int, word: int) -> int:
    """The definition: of a number, its float32 bits and the element's random word."""
    nearest = bits_of(torch.tensor([p]).bfloat16())[0]
    if not math.isfinite(p):
        return nearest
    rounded = (bits + (word & 0xFFFF)) >> 16
    if rounded & 0x7FFF == INFINITY and nearest & 0x7FFF != INFINITY:
        return bits >> 16
    return rounded


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("op", FORMS)
@pytest.mark.parametrize(("seed", "step"), [(0, 1), (-7, 3), (2**63 - 1, 2**33)])
def test_stochastic(op: str, seed: int, step: int) -> None:
    if op == "optimizer_step_8bit":
        step = 1
    param, grad = numbers(3000)
    grad[:10] = 0.0  # what is a bfloat16 number already stays
    exact = param.float() - grad.float()
    words = random_words(seed_key(seed, step), 0, 3000, torch.device("cpu")).tolist()
    expected = list(map(stochastic, exact.tolist(), bits_of(exact), words))
    kept = param[:10].clone()
    descend(op, param, grad, step, rounding="stochastic", seeds=[seed])
    assert bits_of(param) == expected
    assert torch.equal(param[:10], kept)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("op", FORMS)
def test_stochastic_at_the_edges(op: str) -> None:
    """NaN and Inf stay; nothing finite becomes Inf unless rounding to nearest would make it so."""
    largest = of_bits([LARGEST], torch.bfloat16).item()
    spacing = 2.0**120
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, largest, -largest, largest, -largest]
    steps = [0.0, 0.0, 0.0, 0.0, 0.0, -spacing / 4, spacing / 4, -spacing * 0.75, spacing * 0.75]
    count = 500
    param = torch.tensor(values * count).bfloat16()
    grad = torch.tensor(steps * count).bfloat16()
    exact = param.float() - grad.float()
    descend(op, param, grad, rounding="stochastic", seeds=[3])
    words = random_words(seed_key(3, 1), 0, len(param), torch.device("cpu")).tolist()
    expected = list(map(stochastic, exact.tolist(), bits_of(exact), words))
    assert all(map(same, bits_of(param), expected))
    rows = param.view(count, -1)
    assert rows[:, 5:7].isfinite().all()
    assert 0 < rows[:, 7:].isinf().sum() < 2 * count


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("op", FORMS)
@pytest.mark.parametrize("part", [0.0625, 0.25, 0.5, 0.75])
def test_stochastic_is_right_on_average(op: str, part: float) -> None:
    """Of n numbers, part of the way to the next one, n part are rounded up, within 5 sigma."""
    n = 1 << 16
    param, grad = torch.ones(n).bfloat16(), torch.full((n,), -part * 2.0**-7).bfloat16()
    descend(op, param, grad, rounding="stochastic", seeds=[11])
    up = int((param == 1 + 2.0**-7).sum())
    assert up + int((param == 1).sum()) == n
    assert abs(up - n * part) <= 5 * math.sqrt(n * part * (1 - part))


def master(upper: int, correction: int) -> int:
    return ((upper << 16) + (correction << 8)) % 2**32


def corrected(bits: int) -> tuple[int, int]:
    """The definition: of float32 bits, the bfloat16 bits and the correction."""
    magnitude = bits & 0x7FFFFFFF
    if magnitude >= INFINITY << 16:
        return bits >> 16 | (magnitude > INFINITY << 16), 0  # what is cut off may be all of a NaN
    rest = bits & 0xFF
    rounded = bits - rest + (256 if rest > 128 or (rest == 128 and bits >> 8 & 1) else 0)
    upper = (rounded + 0x8000) >> 16
    if upper & 0x7FFF == INFINITY:
        return upper - 1, 127
    return upper, (rounded - (upper << 16)) >> 8


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("op", FORMS)
@pytest.mark.parametrize("correction", [-128, -127, -1, 0, 1, 127])
def test_every_master_weight_is_kept(op: str, correction: int) -> None:
    """A step of nothing: the master weight is read and stored again."""
    uppers = list(range(1 << 16))
    param = of_bits(uppers, torch.bfloat16)
    corrections = torch.full((1 << 16,), correction, dtype=torch.int8)
    # A zero of the other sign, so that the sign of a zero stays.
    grad = torch.zeros(1 << 16).bfloat16().copysign(-param)
    grad[param.isnan()] = 0
    descend(op, param, grad, rounding="corrected", corrections=[corrections])
    found = list(zip(bits_of(param), corrections.tolist(), strict=True))
    for upper, pair in zip(uppers, found, strict=True):
        expected = corrected(master(upper, correction))
        assert same(pair[0], expected[0])
        assert pair[1] == expected[1]
        ordinary = upper & 0x7FFF < INFINITY and (upper & 0x7FFF or correction >= 0)
        assert not ordinary or pair == (upper, correction)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("op", FORMS)
def test_corrected(op: str) -> None:
    param, grad = numbers(3000)
    generator = torch.Generator().manual_seed(8)
    corrections = torch.randint(-128, 128, (3000,), generator=generator, dtype=torch.int8)
    bits = map(master, bits_of(param), corrections.tolist())
    exact = of_bits(list(bits), torch.float32) - grad.float()
    descend(op, param, grad, rounding="corrected", corrections=[corrections])
    expected = [corrected(b) for b in bits_of(exact)]
    assert list(zip(bits_of(param), corrections.tolist(), strict=True)) == expected


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("op", FORMS)
def test_corrected_at_the_edges(op: str) -> None:
    largest = of_bits([LARGEST], torch.bfloat16).item()
    values = [math.nan, math.inf, -math.inf, largest, -largest, largest, 1.0]
    steps = [0.0, 0.0, 0.0, -(2.0**119), 2.0**119, -largest, math.nan]
    param, corrections = torch.tensor(values).bfloat16(), torch.zeros(7, dtype=torch.int8)
    descend(
        op, param, torch.tensor(steps).bfloat16(), rounding="corrected", corrections=[corrections]
    )
    expected = [math.nan, math.inf, -math.inf, largest, -largest, math.inf, math.nan]
    assert torch.equal(
        param.nan_to_num(nan=0.0), torch.tensor(expected).bfloat16().nan_to_num(nan=0.0)
    )
    assert corrections.tolist() == [0, 0, 0, 127, 127, 0, 0]


@pytest.mark.usefixtures("backend")
def test_small_steps_count_with_a_correction_only() -> None:
    """Steps of 2^-15 below 1: exact in 24 bits, and less than half of what bfloat16 can tell."""
    need("optimizer_step_32bit", "sgd", torch.bfloat16, "corrected")
    params = [torch.ones(5).bfloat16() for _ in range(2)]
    grad, correction = torch.full((5,), 2.0**-15).bfloat16(), torch.zeros(5, dtype=torch.int8)
    for step in range(1, 301):
        kq.optimizer_step_32bit("sgd", params[:1], [grad], [], [step], lr=1.0)
        kq.optimizer_step_32bit(
            "sgd",
            params[1:],
            [grad],
            [],
            [step],
            lr=1.0,
            rounding="corrected",
            corrections=[correction],
        )
    assert (params[0] == 1).all()
    bits = [master(*each) for each in zip(bits_of(params[1]), correction.tolist(), strict=True)]
    assert of_bits(bits, torch.float32).tolist() == [1 - 300 * 2.0**-15] * 5
