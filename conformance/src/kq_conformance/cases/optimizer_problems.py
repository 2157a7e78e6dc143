"""One call of an optimizer step over a list of tensors, and what it may give."""

from collections.abc import Sequence
from dataclasses import dataclass

from kq_conformance.bounds import (
    Enclosure,
    Judgement,
    Step,
    Strictness,
    accept_codes_of_interval,
    accept_moment,
    accept_moment_absmax,
    accept_param,
    enclose_adam,
)
from kq_conformance.floats import Array, Float64, Stored, store, values_of
from kq_conformance.reference import (
    OPTIMIZER_BLOCKSIZE,
    Hyper,
    adam,
    adam_8bit,
    codebook_8bit,
    decode_state,
    dynamic_map,
    spread,
)
from kq_conformance.subject import Outputs, Subject

__all__ = ["Step8bit", "Step32bit", "moment_maps"]


@dataclass(frozen=True)
class Step32bit:
    """One call of optimizer_step_32bit over a list of tensors."""

    params: list[Stored]
    grads: list[Stored]
    states: list[Stored]
    steps: list[int]
    hyper: Hyper

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.optimizer_step_32bit(
            "adam", self.params, self.grads, self.states, self.steps, self.hyper
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 step."""
        del strictness  # no codes here
        judged = []
        count = len(self.params)
        for i, step in enumerate(self.steps):
            p, g = _flat(self.params[i]), _flat(self.grads[i])
            m, v = _flat(self.states[i]), _flat(self.states[count + i])
            expected = adam(p, g, m, v, step, self.hyper)
            bound = enclose_adam(p, g, Enclosure.of(m), Enclosure.of(v), step, self.hyper)
            judged += [
                _judge_param(i, outputs, expected[0], bound, self.params[i].dtype),
                *(
                    accept_moment(name, exact, moment).judge(_flat(outputs[name]))
                    for name, exact, moment in (
                        (f"states[{i}]", expected[1], bound.m),
                        (f"states[{count + i}]", expected[2], bound.v),
                    )
                ),
            ]
        return judged


@dataclass(frozen=True)
class Step8bit:
    """One call of optimizer_step_8bit over a list of tensors."""

    params: list[Stored]
    grads: list[Stored]
    codes: list[Stored]
    absmax: list[Stored]
    steps: list[int]
    hyper: Hyper

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        maps = [store(code, "float32") for code in moment_maps()]
        return subject.optimizer_step_8bit(
            "adam",
            self.params,
            self.grads,
            self.codes,
            self.absmax,
            maps,
            self.steps,
            self.hyper,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 step."""
        judged = []
        count, maps = len(self.params), moment_maps()
        for i, step in enumerate(self.steps):
            p, g = _flat(self.params[i]), _flat(self.grads[i])
            first, second = (
                (self.codes[j].bits.reshape(-1), values_of(self.absmax[j])) for j in (i, count + i)
            )
            new_p, *new_states = adam_8bit(p, g, (first, second), maps, step, self.hyper)
            # Decoding a state is one float32 product.
            m, v = (
                Enclosure.of(decode_state(*state, code)).rounded()
                for state, code in zip((first, second), maps, strict=True)
            )
            bound = enclose_adam(p, g, m, v, step, self.hyper)
            judged.append(_judge_param(i, outputs, new_p, bound, self.params[i].dtype))
            for j, moment, code, expected in zip(
                (i, count + i), (bound.m, bound.v), maps, new_states, strict=True
            ):
                judged += _judge_state(j, outputs, moment, code, expected, strictness)
        return judged


def _judge_param(i: int, outputs: Outputs, expected: Float64, bound: Step, dtype: str) -> Judgement:
    name = f"params[{i}]"
    return accept_param(name, expected, bound, dtype).judge(_flat(outputs[name]))


def _judge_state(
    j: int,
    outputs: Outputs,
    moment: Enclosure,
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
        moment.low,
        moment.high,
        scale,
        codebook_8bit(code),
        strictness,
    )
    scales = accept_moment_absmax(f"absmax[{j}]", expected[1], moment, OPTIMIZER_BLOCKSIZE)
    return [scales.judge(absmax), accepted.judge(codes)]


def moment_maps() -> tuple[Float64, Float64]:
    """Signed dynamic map for the first moment, unsigned for the second."""
    return dynamic_map(True).values, dynamic_map(False).values


def _flat(stored: Stored) -> Float64:
    """The values of a tensor of any shape: [n]."""
    return values_of(stored).reshape(-1)
