"""How bfloat16 parameters are stored, and that single parameters can choose."""

import copy

import pytest
import torch

from kq_optim import SGD, AdamW, AdamW8bit

BOTH = pytest.mark.parametrize("state", ["32bit", "8bit"])


def parameter(value=1.0, size=4096, dtype=torch.bfloat16, grad=1.0):
    param = torch.nn.Parameter(torch.full((size,), value, dtype=dtype))
    param.grad = torch.full((size,), grad, dtype=dtype)
    return param


def master(param, correction):
    """The 24-bit weight, as a float32."""
    bits = param.detach().view(torch.int16).int() << 16
    return (bits + (correction.int() << 8)).view(torch.float32)


def test_small_steps_are_lost_only_when_rounded_to_nearest():
    """Steps of 2^-12 from 1, whose neighbor below is 1 - 2^-8: 32 of them make two of those."""
    results = {}
    for rounding in ("nearest", "stochastic", "corrected"):
        torch.manual_seed(0)
        param = parameter()
        optimizer = SGD([param], lr=2.0**-12, rounding=rounding)
        for _ in range(32):
            optimizer.step()
        results[rounding] = param.detach().float()
    assert torch.equal(results["nearest"], torch.ones(4096))
    assert torch.equal(results["corrected"], torch.full((4096,), 1 - 2.0**-7))
    # A sum of 32 variables, up by 2^-8 with probability 2^-4 at first (later too: below 1 the
    # bfloat16 numbers stay 2^-8 apart): the variance of the mean of 4096 is known.
    deviation = 2.0**-8 * (32 * 2.0**-4 * (1 - 2.0**-4) / 4096) ** 0.5
    assert (results["stochastic"].mean() - (1 - 2.0**-7)).abs() < 5 * deviation
    assert results["stochastic"].std() > 0


@BOTH
def test_a_corrected_parameter_follows_a_float32_one(state):
    """A master of 24 bits is rounded by 2^-16 of itself in each step, and by nothing else.

    The gradients are the same bfloat16 numbers, so a step is off only by what the weights are.
    """
    generator = torch.Generator().manual_seed(0)
    first = 1 + torch.rand(5000, generator=generator)
    corrected = torch.nn.Parameter(first.bfloat16())
    exact = torch.nn.Parameter(corrected.detach().float())
    options = {"lr": 1e-3, "weight_decay": 0.0, "state": state}
    ours = AdamW([corrected], rounding="corrected", **options)
    theirs = AdamW([exact], rounding="corrected", **options)  # float32 needs none
    for _ in range(20):
        corrected.grad = torch.randn(5000, generator=generator).bfloat16()
        exact.grad = corrected.grad.float()
        ours.step()
        theirs.step()
    kept = master(corrected, ours.state[corrected]["correction"])
    assert ((kept - exact.detach()).abs() <= 20 * 2.0**-16 * exact.detach().abs()).all()
    assert "correction" not in theirs.state[exact]


def test_rounding_belongs_to_groups_and_parameters():
    near, up, exact, half = parameter(), parameter(), parameter(), parameter()
    optimizer = AdamW8bit([{"params": [near, exact]}, {"params": [up], "rounding": "stochastic"}])
    optimizer.override(exact, rounding="corrected")
    optimizer.add_param_group({"params": [half], "state": "32bit", "rounding": "stochastic"})
    optimizer.step()
    names = {"step", "format", "state1", "absmax1", "state2", "absmax2"}
    assert set(optimizer.state[near]) == names
    assert set(optimizer.state[up]) == names | {"seed"}
    assert set(optimizer.state[exact]) == names | {"correction"}
    assert optimizer.state[exact]["correction"].dtype == torch.int8
    assert optimizer.state[up]["seed"] != optimizer.state[half]["seed"]


def test_seeds_come_from_torchs_generator():
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        param = parameter()
        AdamW8bit([param], rounding="stochastic").step()
        results.append(param.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_copies_draw_the_same_random_numbers():
    param = parameter()
    optimizer = AdamW8bit([param], rounding="stochastic")
    optimizer.step()
    other = copy.deepcopy(optimizer)
    (copied,) = other.param_groups[0]["params"]
    copied.grad = param.grad
    for _ in range(3):
        other.step()
        optimizer.step()
    assert torch.equal(copied, param)


@pytest.mark.parametrize("rounding", ["stochastic", "corrected"])
def test_float16_parameters_cannot_be_rounded_otherwise(rounding):
    param = parameter(dtype=torch.float16)
    with pytest.raises(ValueError, match=f"rounding='{rounding}' needs bfloat16 .*float16"):
        AdamW([param], rounding=rounding)
    optimizer = AdamW([param])
    with pytest.raises(ValueError, match="float16"):
        optimizer.override(param, rounding=rounding)
    optimizer.step()


def test_rounding_cannot_change_after_the_first_step():
    param = parameter()
    optimizer = AdamW8bit([param])
    optimizer.step()
    before = param.detach().clone()
    with pytest.raises(ValueError, match="override of rounding must come before the first step"):
        optimizer.override(param, rounding="corrected")
    optimizer.param_groups[0]["rounding"] = "corrected"
    with pytest.raises(ValueError, match=r"rounding nearest.*rounding corrected.*cannot change"):
        optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"] == 1


def test_unknown_rounding():
    with pytest.raises(ValueError, match=r"rounding must be one of .*got 'up'"):
        AdamW8bit([parameter()], rounding="up")
