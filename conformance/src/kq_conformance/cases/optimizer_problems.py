"""One call of an optimizer step over a list of tensors, and what it may give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import (
    Enclosure,
    Judgement,
    Step,
    Strictness,
    accept_codes_of_interval,
    accept_param,
    accept_state,
    accept_state_absmax,
    enclose_step,
    judge_corrected,
    judge_mean,
    judge_stochastic,
)
from kq_conformance.floats import FLOAT32, Array, Float64, Stored, store, values_of
from kq_conformance.reference import (
    OPTIMIZER_BLOCKSIZE,
    RULES,
    Hyper,
    codebook_8bit,
    decode_state,
    dynamic_map,
    join_master,
    optimizer_step,
    optimizer_step_8bit,
    random_words,
    spread,
)
from kq_conformance.subject import Outputs, Rounding, Subject

__all__ = ["KnownMean", "Step8bit", "Step32bit", "state_maps"]


@dataclass(frozen=True)
class _Stepped:
    """What both forms of a step have."""

    rule: str
    params: list[Stored]
    grads: list[Stored]
    steps: list[int]
    hyper: Hyper
    rounding: Rounding

    def _tensors(self, i: int) -> tuple[Float64, Float64]:
        """Parameter i, as the rule reads it, and its gradient."""
        p, g = _flat(self.params[i]), _flat(self.grads[i])
        if self.rounding.name == "corrected":
            corrections = self.rounding.corrections[i].bits.reshape(-1)
            p = join_master(self.params[i].bits.reshape(-1), corrections)
        return p, g

    def _places(self, i: int) -> list[int]:
        """Where the states of parameter i are in lists of states."""
        return [i + k * len(self.params) for k in range(len(RULES[self.rule].signed))]

    def _judge_param(
        self, i: int, outputs: Outputs, expected: Float64, bound: Step
    ) -> list[Judgement]:
        name, got = f"params[{i}]", outputs[f"params[{i}]"]
        if self.rounding.name == "stochastic":
            words = random_words(self.rounding.seeds[i], self.steps[i], np.arange(expected.size))
            return [judge_stochastic(name, expected, bound, words, _flat(got))]
        if self.rounding.name == "corrected":
            correction = f"corrections[{i}]"
            parts = got.bits.reshape(-1), outputs[correction].bits.reshape(-1)
            return judge_corrected((name, correction), expected, bound, parts)
        accepted = accept_param(self.rule, name, expected, bound, got.dtype)
        return [accepted.judge(_flat(got))]


@dataclass(frozen=True)
class Step32bit(_Stepped):
    """One call of optimizer_step_32bit over a list of tensors."""

    states: list[Stored]

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.optimizer_step_32bit(
            self.rule,
            self.params,
            self.grads,
            self.states,
            self.steps,
            self.hyper,
            rounding=self.rounding,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 step."""
        del strictness  # no codes here
        judged = []
        for i, step in enumerate(self.steps):
            p, g = self._tensors(i)
            states = tuple(_flat(self.states[j]) for j in self._places(i))
            enclosed = tuple(Enclosure.of(each) for each in states)
            expected, new_states = optimizer_step(self.rule, p, g, states, step, self.hyper)
            bound = enclose_step(self.rule, p, g, enclosed, step, self.hyper)
            judged += self._judge_param(i, outputs, expected, bound)
            for j, exact, state in zip(self._places(i), new_states, bound.states, strict=True):
                name = f"states[{j}]"
                accepted = accept_state(self.rule, name, exact, state)
                judged.append(accepted.judge(_flat(outputs[name])))
        return judged


@dataclass(frozen=True)
class KnownMean(Step32bit):
    """A step whose new parameters are known exactly, so that their roundings can be counted."""

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Count, beside comparing each element."""
        judged = list(super().judge(outputs, strictness))
        for i, step in enumerate(self.steps):
            states = tuple(_flat(self.states[j]) for j in self._places(i))
            exact, _ = optimizer_step(self.rule, *self._tensors(i), states, step, self.hyper)
            assert np.array_equal(exact, FLOAT32.round(exact))
            judged.append(judge_mean(f"params[{i}]", exact, _flat(outputs[f"params[{i}]"])))
        return judged


@dataclass(frozen=True)
class Step8bit(_Stepped):
    """One call of optimizer_step_8bit over a list of tensors."""

    codes: list[Stored]
    absmax: list[Stored]

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        maps = [store(code, "float32") for code in state_maps(self.rule)]
        return subject.optimizer_step_8bit(
            self.rule,
            self.params,
            self.grads,
            self.codes,
            self.absmax,
            maps,
            self.steps,
            self.hyper,
            rounding=self.rounding,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 step."""
        judged = []
        maps = state_maps(self.rule)
        for i, step in enumerate(self.steps):
            p, g = self._tensors(i)
            places = self._places(i)
            coded = [(self.codes[j].bits.reshape(-1), values_of(self.absmax[j])) for j in places]
            expected, new_states = optimizer_step_8bit(
                self.rule, p, g, coded, maps, step, self.hyper
            )
            # Decoding a state is one float32 product.
            enclosed = tuple(
                Enclosure.of(decode_state(*state, code)).rounded()
                for state, code in zip(coded, maps, strict=True)
            )
            bound = enclose_step(self.rule, p, g, enclosed, step, self.hyper)
            judged += self._judge_param(i, outputs, expected, bound)
            for j, state, code, exact in zip(places, bound.states, maps, new_states, strict=True):
                judged += self._judge_state(j, outputs, state, code, exact, strictness)
        return judged

    def _judge_state(
        self,
        j: int,
        outputs: Outputs,
        state: Enclosure,
        code: Float64,
        expected: tuple[Array, Float64],
        strictness: Strictness,
    ) -> list[Judgement]:
        """The scale of each block, and the codes at the scale that the backend chose."""
        codes, absmax = outputs[f"codes[{j}]"].bits.reshape(-1), _flat(outputs[f"absmax[{j}]"])
        scale = spread(absmax.reshape(1, -1), codes.size, OPTIMIZER_BLOCKSIZE).reshape(-1)
        accepted = accept_codes_of_interval(
            f"codes[{j}]",
            expected[0],
            state.low,
            state.high,
            scale,
            codebook_8bit(code),
            strictness,
        )
        scales = accept_state_absmax(
            self.rule, f"absmax[{j}]", expected[1], state, OPTIMIZER_BLOCKSIZE
        )
        return [scales.judge(absmax), accepted.judge(codes)]


def state_maps(rule: str) -> list[Float64]:
    """The dynamic map of each state: signed or unsigned."""
    return [dynamic_map(signed).values for signed in RULES[rule].signed]


def _flat(stored: Stored) -> Float64:
    """The values of a tensor of any shape: [n]."""
    return values_of(stored).reshape(-1)
