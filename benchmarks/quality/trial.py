"""One training run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality.contenders import RATE, Contender
from benchmarks.quality.model import CONTEXT, GPT, Shape, Text

BATCH = 8
_WARM_UP = 0.05  # share of the steps
_LAST_RATE = 0.1  # of the first one, at the end of the cosine


@dataclass(frozen=True)
class Plan:
    """How long the runs are.

    Attributes:
        shape: of the model.
        steps: of each run.
        windows: of held-out text.
    """

    shape: Shape
    steps: int
    windows: int


FULL = Plan(Shape(width=192, layers=4, heads=6), steps=200, windows=256)
QUICK = Plan(Shape(width=64, layers=1, heads=2), steps=20, windows=8)


@dataclass(frozen=True)
class Trial:
    """What a run gave.

    Attributes:
        contender: its name.
        seed: of the first values of the weights and of the order of the text.
        parameters: of the model.
        losses: while training, of each step, in nats a byte.
        held_out: loss after the last step; NaN or infinite if the run diverged.
        bytes_per_parameter: of the optimizer's state, all tensors counted that hold an element or
            a scale for some.
        seconds: that the steps took.
    """

    contender: str
    seed: int
    parameters: int
    losses: list[float]
    held_out: float
    bytes_per_parameter: float
    seconds: float


def train(contender: Contender, seed: int, text: Text, plan: Plan) -> Trial:
    """Trains a model from scratch, and scores it on held-out text."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    model = GPT(plan.shape).to(contender.dtype)
    optimizer = contender.make(model.parameters(), plan.steps)
    first = [group["lr"] for group in optimizer.param_groups]
    losses, started = [], time.perf_counter()
    for step in range(plan.steps):
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate * _schedule(step, plan.steps)
        loss = model(text.batch(BATCH, order))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    with torch.no_grad():
        held_out = [float(model(part)) for part in text.windows(plan.windows).split(BATCH)]
    count = sum(parameter.numel() for parameter in model.parameters())
    return Trial(
        contender.name,
        seed,
        count,
        losses,
        math.fsum(held_out) / len(held_out),
        _state_bytes(optimizer) / count,
        seconds,
    )


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    tensors = [
        tensor
        for state in optimizer.state.values()
        for tensor in state.values()
        if isinstance(tensor, Tensor) and tensor.ndim > 0
    ]
    return sum(tensor.nbytes for tensor in tensors)


def describe(plan: Plan) -> str:
    """The run in a sentence."""
    shape = plan.shape
    return (
        f"GPT of {shape.layers} layers, width {shape.width}, on bytes of Wikipedia leads; "
        f"{plan.steps} steps of {BATCH} x {CONTEXT} bytes, rate {RATE} with warm-up and cosine."
    )
