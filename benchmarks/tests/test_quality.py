"""The training runs that compare optimizers, on text of our own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.quality import report
from benchmarks.quality.contenders import CONTENDERS, Contender, Requantized
from benchmarks.quality.model import CONTEXT, Text
from benchmarks.quality.trial import QUICK, train

TEXT = Text(*(torch.arange(20 * CONTEXT, dtype=torch.int64).remainder(7).byte() for _ in range(2)))


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_every_optimizer_but_the_linear_one_learns_a_sequence(contender: Contender) -> None:
    trial = train(contender, 0, TEXT, QUICK)
    assert len(trial.losses) == QUICK.steps
    # The first loss is that of knowing nothing, ln(256). Evenly spaced codes turn small second
    # moments into zeros to divide by: the run that shows why codes are dynamic diverges.
    assert (trial.held_out < trial.losses[0]) is (contender.name != "ablation: tensor-wise, linear")
    assert trial.bytes_per_parameter > 1


def test_runs_repeat() -> None:
    first, second = (train(CONTENDERS[1], 3, TEXT, QUICK) for _ in range(2))
    assert first.losses == second.losses
    assert first.losses != train(CONTENDERS[1], 4, TEXT, QUICK).losses


def test_moments_pass_through_eight_bits() -> None:
    """All of a tensor's values are then among 256 multiples of one scale; small tensors stay."""
    large, small = (torch.nn.Parameter(torch.randn(n, 64)) for n in (64, 2))
    gradient = torch.randn(2, 64)
    maps = torch.linspace(-1, 1, 256), torch.linspace(0, 1, 256)
    optimizer = Requantized([large, small], maps, None, lr=1e-3)
    large.grad, small.grad = torch.randn(64, 64), gradient
    optimizer.step()
    moment = optimizer.state[large]["exp_avg"]
    assert len(moment.unique()) <= 256
    assert torch.equal(optimizer.state[small]["exp_avg"], 0.1 * gradient)


def test_a_run_that_diverged_is_named_and_not_averaged() -> None:
    trials = [train(each, seed, TEXT, QUICK) for each in CONTENDERS[:2] for seed in range(2)]
    trials[-1] = replace(trials[-1], held_out=math.nan)
    text = report.markdown(trials, QUICK, "curves.svg")
    assert f"| {CONTENDERS[1].name} | 2 | not finite in 1 of 2 runs |  |  |" in text


def test_report_has_a_row_for_each_optimizer_that_ran() -> None:
    trials = [train(each, seed, TEXT, QUICK) for each in CONTENDERS[:2] for seed in range(2)]
    text = report.markdown(trials, QUICK, "curves.svg")
    assert "| torch AdamW | 2 |" in text
    assert "(torch AdamW)" in text
    assert "Lion8bit" not in text
    assert report.curves(trials).svg().startswith("<?xml")
