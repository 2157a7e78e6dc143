"""The optimizer steps with torch ops: tile by tile, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from ..formats import OPTIMIZER_BLOCKSIZE
from ..rules import RULES, Rule
from ..update_rules import Direction
from ._torch_codes import TILE, decode, encode, encoding_device, midpoints
from ._torch_norms import Norm
from ._torch_rounding import Corrected, Nearest, Parameter, Stochastic

CPU_TILE = 1 << 16
"""Elements that a thread handles at a time: what is computed of them stays in the cache.

This and `TILE` are multiples of the block size and of the chunks of a norm.
"""


class States(Protocol):
    """The states of one parameter, however they are stored."""

    def load(self, part: slice) -> list[Tensor]:
        """Return them in float32 from `part` of the flat parameter, for `store` after an update."""

    def store(self, part: slice, states: Sequence[Tensor]) -> None:
        """Keep what `load` returned, updated."""


class _Float32States:
    def __init__(self, states: Sequence[Tensor]) -> None:
        self._states = [state.view(-1) for state in states]

    def load(self, part: slice) -> list[Tensor]:
        return [state[part] for state in self._states]

    def store(self, part: slice, states: Sequence[Tensor]) -> None:
        pass  # they are views, and updated already


class _CodedStates:
    def __init__(
        self,
        codes: Sequence[Tensor],
        absmax: Sequence[Tensor],
        code_maps: Sequence[Tensor],
        thresholds: Sequence[Tensor],
    ) -> None:
        rows = ([tensor.view(1, -1) for tensor in each] for each in (codes, absmax))
        self._stored = list(zip(*rows, code_maps, thresholds, strict=True))

    def load(self, part: slice) -> list[Tensor]:
        states = []
        for codes, absmax, code_map, _ in self._stored:
            values = code_map[codes[:, part].int()]
            decode(values, absmax[:, _blocks(part)], OPTIMIZER_BLOCKSIZE, out=values)
            states.append(values.view(-1))
        return states

    def store(self, part: slice, states: Sequence[Tensor]) -> None:
        for (codes, absmax, _, thresholds), state in zip(self._stored, states, strict=True):
            scales = absmax[:, _blocks(part)]
            for _, cols, index in encode(
                state.view(1, -1), scales, thresholds, OPTIMIZER_BLOCKSIZE
            ):
                codes[:, part][:, cols] = index.to(torch.uint8)


def _blocks(part: slice) -> slice:
    return slice(part.start // OPTIMIZER_BLOCKSIZE, -(-part.stop // OPTIMIZER_BLOCKSIZE))


@dataclass(frozen=True)
class _Step:
    """What is the same for all parameters of a call."""

    rule: Rule
    hyper: Mapping[str, float]
    lr: float
    weight_decay: float
    decoupled: bool
    maximize: bool
    grad_scale: float

    def take(self, param: Parameter, grad: Tensor, states: States, step: int) -> None:
        """Step one parameter, in two passes if its rule has norms; the first one writes nothing."""
        flat = grad.view(-1)
        trust = self._trust(param, flat, states, step)
        for part in _parts(flat):
            p, own = param.load(part), states.load(part)
            u, factor = self._direction(p, self._gradient(flat[part]), own, step, trust)
            if self.weight_decay and self.decoupled and not self._decays_direction:
                p.mul_(_single(1 - self.lr * self.weight_decay))
            scale = factor if self._scales_gradient else factor * trust
            p.add_(u, alpha=_single(-self.lr * scale))
            param.store(part, p)
            states.store(part, own)

    @property
    def _decays_direction(self) -> bool:
        return self.rule.trust is not None and self.rule.trust.decays_direction

    @property
    def _scales_gradient(self) -> bool:
        return self.rule.trust is not None and self.rule.trust.of_gradient

    def _gradient(self, stored: Tensor) -> Tensor:
        g = stored.float()
        if self.grad_scale != 1:
            # A tensor, not a number: torch may multiply by the reciprocal of a number.
            g = g / torch.tensor(_single(self.grad_scale), device=g.device)
        return g.neg() if self.maximize else g

    def _direction(
        self, p: Tensor, g: Tensor, states: Sequence[Tensor], step: int, trust: float
    ) -> Direction:
        """Update `states` and return the direction, with the decay that belongs to it or to g."""
        decay = _single(self.weight_decay)
        if decay and not self.decoupled:
            g = g.add(p, alpha=decay)
        if self._scales_gradient:
            g = g * _single(trust)
        u, factor = self.rule.update(g, states, step, **self.rule.of_update(self.hyper))
        if decay and self.decoupled and self._decays_direction:
            return (u * _single(factor)).add_(p, alpha=decay), 1.0
        return u, factor

    def _trust(self, param: Parameter, flat: Tensor, states: States, step: int) -> float:
        trust = self.rule.trust
        if trust is None:
            return 1.0
        of_p, of_other, factor = Norm(), Norm(), 1.0
        for part in _parts(flat):
            p, other = param.load(part), self._gradient(flat[part])
            if not trust.of_gradient:
                own = [state.clone() for state in states.load(part)]
                other, factor = self._direction(p, other, own, step, 1.0)
            of_p.add(p)
            of_other.add(other)
        return trust.ratio(of_p.value, factor * of_other.value, self.weight_decay, self.hyper)


def _single(constant: float) -> float:
    """Round a constant to float32; what is too large is infinite, where torch would raise."""
    return c_float(constant).value


def _parts(flat: Tensor) -> Iterator[slice]:
    tile = CPU_TILE * torch.get_num_threads() if flat.is_cpu else TILE
    for start in range(0, flat.numel(), tile):
        yield slice(start, min(start + tile, flat.numel()))


def _step(name: str, options: Mapping[str, Any]) -> _Step:
    rule = RULES[name]
    common = {f.name: options[f.name] for f in fields(_Step) if f.name in options}
    return _Step(rule, {name: options[name] for name in rule.hyper}, **common)


def _parameter(
    params: Sequence[Tensor], i: int, steps: Sequence[int], options: Mapping[str, Any]
) -> Parameter:
    if options["rounding"] == "stochastic":
        return Stochastic(params[i], options["seeds"][i], steps[i])
    if options["rounding"] == "corrected":
        return Corrected(params[i], options["corrections"][i])
    return Nearest(params[i])


def step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    """See `Backend.optimizer_step_32bit`."""
    step, count = _step(rule, options), len(params)
    for i in range(count):
        own = _Float32States(states[i::count])
        step.take(_parameter(params, i, steps, options), grads[i], own, steps[i])


def step_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    """See `Backend.optimizer_step_8bit`."""
    step, count = _step(rule, options), len(params)
    thresholds = [midpoints(m.to(encoding_device(m.device))) for m in code_maps]
    for i in range(count):
        own = _CodedStates(codes[i::count], absmax[i::count], code_maps, thresholds)
        step.take(_parameter(params, i, steps, options), grads[i], own, steps[i])
