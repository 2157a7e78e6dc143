"""What a step does not depend on: threads, tiles, the order of the list, strides, the way in."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from declared import need
from torch import Tensor

import kq_functional as kq
from kq_functional.backends import _torch_norms, _torch_optimizer

HYPER = {
    "beta1": 0.9,
    "beta2": 0.99,
    "beta3": 0.999,
    "alpha": 0.9,
    "eps": 1e-8,
    "momentum": 0.9,
    "dampening": 0.1,
    "nesterov": 0,
    "t_alpha": 100,
    "t_beta3": 100,
    "lr_decay": 0.1,
    "bias_correction": 1,
    "max_unorm": 0.01,
    "trust_coefficient": 0.01,
}
CASES = [
    pytest.param(op, rule, dtype, rounding, id=f"{op[15:]}-{rule}-{rounding}-{dtype}"[:60])
    for op in ("optimizer_step_32bit", "optimizer_step_8bit")
    for rule in kq.RULES
    for dtype, rounding in [
        (torch.float32, "nearest"),
        (torch.bfloat16, "nearest"),
        (torch.bfloat16, "stochastic"),
        (torch.bfloat16, "corrected"),
    ]
    if not (op == "optimizer_step_8bit" and rule == "sgd")
]
SHAPES = [(300,), (5, 7), (2, 70_000), (1,)]
STEPS = [1, 2, 3, 400]


class Problem:
    """Parameters with states, in float32 or as codes."""

    def __init__(self, op: str, rule: str, dtype: torch.dtype, rounding: str) -> None:
        self.op, self.rule, self.rounding = op, rule, rounding
        self.signed = kq.RULES[rule].signed
        count = len(SHAPES)
        self.params = [self.randn(s, i).to(dtype) for i, s in enumerate(SHAPES)]
        self.grads = [self.randn(s, 9 + i).to(dtype) for i, s in enumerate(SHAPES)]
        states = [
            self.randn(shape, 20 + i) / 10 if signed else self.randn(shape, 20 + i) ** 2 + 0.1
            for signed in self.signed
            for i, shape in enumerate(SHAPES)
        ]
        self.states: list[list[Tensor]] = [states]
        if op == "optimizer_step_8bit":
            self.maps = [kq.create_dynamic_map(signed=signed) for signed in self.signed]
            coded = [
                kq.quantize_blockwise(s, self.maps[k // count], blocksize=256, layout="flat")
                for k, s in enumerate(states)
            ]
            self.states = [[c for c, _ in coded], [s.absmax for _, s in coded]]
        self.corrections = [torch.full(s, 5, dtype=torch.int8) for s in SHAPES]

    @staticmethod
    def randn(shape: tuple[int, ...], seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def step(self, *indices: int) -> None:
        """Step the parameters with these numbers, in this order."""
        count, states = len(SHAPES), len(self.signed)
        options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "rounding": self.rounding}
        options |= {name: HYPER[name] for name in kq.RULES[self.rule].hyper}
        if self.rounding == "stochastic":
            options["seeds"] = [100 + i for i in indices]
        if self.rounding == "corrected":
            options["corrections"] = [self.corrections[i] for i in indices]
        own = [
            [each[k * count + i] for k in range(states) for i in indices] for each in self.states
        ]
        maps = [self.maps] if self.op == "optimizer_step_8bit" else []
        getattr(kq, self.op)(
            self.rule,
            [self.params[i] for i in indices],
            [self.grads[i] for i in indices],
            *own,
            *maps,
            [STEPS[i] for i in indices],
            **options,
        )

    @property
    def results(self) -> list[Tensor]:
        return [*self.params, *chain.from_iterable(self.states), *self.corrections]


def same(a: Problem, b: Problem) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.results, b.results, strict=True))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("op", "rule", "dtype", "rounding"), CASES)
def test_invariance(
    op: str, rule: str, dtype: torch.dtype, rounding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(op, rule, dtype, rounding)

    def stepped(act: Callable[[Problem], None]) -> Problem:
        problem = Problem(op, rule, dtype, rounding)
        act(problem)
        return problem

    def one_at_a_time(problem: Problem) -> None:
        for i in (2, 0, 3, 1):
            problem.step(i)

    def on_one_thread(problem: Problem) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        problem.step(0, 1, 2, 3)
        torch.set_num_threads(before)

    def strided(problem: Problem) -> None:
        """The first of two columns of memory: every element lies apart."""
        for each in (problem.params, problem.grads):
            each[:] = [torch.stack((x, x), -1)[..., 0] for x in each]
        problem.step(0, 1, 2, 3)

    def without_grad(problem: Problem) -> None:
        with torch.no_grad():  # past the dispatcher
            problem.step(0, 1, 2, 3)

    def in_large_tiles(problem: Problem) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(_torch_optimizer, "CPU_TILE", 1 << 20)
            problem.step(0, 1, 2, 3)

    expected = stepped(lambda problem: problem.step(0, 1, 2, 3))
    untouched = Problem(op, rule, dtype, rounding)
    assert not same(expected, untouched)
    for act in (one_at_a_time, on_one_thread, strided, without_grad, in_large_tiles):
        assert same(stepped(act), expected), act.__name__


def test_a_norm_is_that_of_its_chunks() -> None:
    """Parts of whole chunks do not show, and the sum is as good as float64 makes it."""
    x = Problem.randn((200_001,), 1) * 1e15
    norms = []
    for part in (1, 2, 4):
        norm = _torch_norms.Norm()
        for piece in x.split(part * _torch_norms.CHUNK):
            norm.add(piece)
        norms.append(norm.value)
    assert norms[0] == norms[1] == norms[2]
    exact = math.sqrt(math.fsum(v * v for v in x.tolist()))
    # Squares are exact in float64; 16 sums in a chunk, 3 of chunks, and a root round.
    assert abs(norms[0] - exact) <= 20 * 2.0**-53 * exact
