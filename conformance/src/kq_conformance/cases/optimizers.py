"""Cases of optimizer_step_8bit and optimizer_step_32bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

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
from kq_conformance.cases.case import Case, Demand, Mode, Problem, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.floats import FORMATS, Array, Float64, Stored, store, stored_bytes, values_of
from kq_conformance.reference import (
    OPTIMIZER_BLOCKSIZE,
    Hyper,
    adam,
    adam_8bit,
    codebook_8bit,
    count_blocks,
    decode_state,
    dynamic_map,
    quantize_blockwise,
    spread,
)
from kq_conformance.subject import Outputs, Subject

__all__ = ["Step8bit", "optimizer_cases", "usual_step_8bit"]

# One element, a block less one, a block, one more, several blocks with a tail, nothing: one list.
_SIZES = (1, 255, 256, 257, 1000, 0)


@dataclass(frozen=True)
class Step32bit:
    """One call of optimizer_step_32bit over a list of tensors."""

    params: list[Stored]
    grads: list[Stored]
    states: list[Stored]
    steps: list[int]
    hyper: Hyper

    def call(self, subject: Subject) -> Outputs:
        return subject.optimizer_step_32bit(
            "adam", self.params, self.grads, self.states, self.steps, self.hyper
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        del strictness  # no codes here
        judged = []
        count = len(self.params)
        for i, step in enumerate(self.steps):
            p, g = values_of(self.params[i]), values_of(self.grads[i])
            m, v = values_of(self.states[i]), values_of(self.states[count + i])
            expected = adam(p, g, m, v, step, self.hyper)
            bound = enclose_adam(p, g, Enclosure.of(m), Enclosure.of(v), step, self.hyper)
            judged += [
                _judge_param(i, outputs, expected[0], bound, self.params[i].dtype),
                *(
                    accept_moment(name, exact, moment).judge(values_of(outputs[name]))
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
        maps = [store(code, "float32") for code in _maps()]
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
        count, maps = len(self.params), _maps()
        for i, step in enumerate(self.steps):
            p, g = values_of(self.params[i]), values_of(self.grads[i])
            first, second = (
                (self.codes[j].bits, values_of(self.absmax[j])) for j in (i, count + i)
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
    return accept_param(name, expected, bound, dtype).judge(values_of(outputs[name]))


def _judge_state(
    j: int,
    outputs: Outputs,
    moment: Enclosure,
    code: Float64,
    expected: tuple[Array, Float64],
    strictness: Strictness,
) -> list[Judgement]:
    """The scale of each block, and the codes at the scale that the backend chose."""
    codes, absmax = outputs[f"codes[{j}]"].bits, values_of(outputs[f"absmax[{j}]"])
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


def _maps() -> tuple[Float64, Float64]:
    """Signed dynamic map for the first moment, unsigned for the second."""
    return dynamic_map(True).values, dynamic_map(False).values


@dataclass(frozen=True)
class _Variant:
    """One setting of the hyperparameters and of what is special about the inputs.

    Attributes:
        hyper: hyperparameters.
        steps: the number of the step of each tensor.
        sizes: elements of each tensor.
        kind: "": as in training; "fresh": states of a first step, zero; "nonfinite": NaN and Inf in
            gradients; "still": all gradients zero; "fresh-still": both; "denormal": gradients and
            moments below the normal range, and gradients whose squares are; "huge": some gradients
            whose squares overflow.
        profile: the smallest profile that asks for it.
    """

    hyper: Hyper
    steps: tuple[int, ...] = (2, 7, 30, 100, 1000, 3)
    sizes: tuple[int, ...] = _SIZES
    kind: str = ""
    profile: Profile = Profile.CORE


_FIRST = (1,) * len(_SIZES)
_MANY = 150  # tensors of a list: more than one launch of a multi-tensor kernel takes

_VARIANTS = {
    "plain": _Variant(Hyper(), profile=Profile.QUICK),
    "first-step": _Variant(Hyper(weight_decay=0.01), _FIRST, kind="fresh"),
    "decoupled-decay": _Variant(Hyper(lr=1e-2, weight_decay=0.1), profile=Profile.QUICK),
    "coupled-decay": _Variant(Hyper(lr=1e-2, weight_decay=0.1, decoupled=False)),
    "maximize": _Variant(Hyper(weight_decay=0.01, maximize=True)),
    "maximize-coupled": _Variant(Hyper(weight_decay=0.3, decoupled=False, maximize=True)),
    "late": _Variant(Hyper(lr=3e-5, beta2=0.95), (100_000,) * len(_SIZES)),
    "beyond-int32": _Variant(Hyper(), (2**31 + 7,) * len(_SIZES)),
    "slow-moments": _Variant(Hyper(beta1=0.99, beta2=0.99999)),
    "no-momentum": _Variant(Hyper(beta1=0.0)),
    "no-memory": _Variant(Hyper(beta2=0.0)),
    "large-eps": _Variant(Hyper(eps=1e-3)),
    "no-eps": _Variant(Hyper(eps=0.0)),
    "large-lr": _Variant(Hyper(lr=10.0)),
    "small-lr": _Variant(Hyper(lr=1e-12, weight_decay=0.1)),
    "lr-zero": _Variant(Hyper(lr=0.0, weight_decay=0.1)),
    "zero-gradient": _Variant(Hyper(), kind="still"),
    "zero-gradient-first": _Variant(Hyper(), _FIRST, kind="fresh-still"),
    "nonfinite": _Variant(Hyper(weight_decay=0.01), kind="nonfinite"),
    "denormal": _Variant(Hyper(eps=1e-30), kind="denormal"),
    "huge-gradient": _Variant(Hyper(weight_decay=0.01), kind="huge"),
    "empty-list": _Variant(Hyper(), (), ()),
    "empty-tensor": _Variant(Hyper(), (5,), (0,)),
    "large": _Variant(Hyper(weight_decay=0.01), (3, 20), ((1 << 16) + 70, 3)),
    "many-tensors": _Variant(
        Hyper(), tuple(range(1, _MANY + 1)), tuple(1 + 37 * i % 301 for i in range(_MANY))
    ),
}


_Maker = Callable[[Draw, _Variant, str], Problem]


def _tensors(draw: Draw, variant: _Variant, dtype: str) -> tuple[list[Stored], list[Stored]]:
    """Parameters and gradients of all sizes; magnitudes as in training, a few exact zeros."""
    params, grads = [], []
    half = dtype == "float16"
    for size in variant.sizes:
        params.append(store(0.05 * draw.bell(size), dtype))
        g = draw.bell(size) * draw.magnitudes(-14, -4, size) * (draw.uniform(size) > 1 / 16)
        if variant.kind.endswith("still"):
            g = np.zeros(size)
        elif variant.kind == "nonfinite" and size > 2:
            g[size // 2], g[-1], g[0] = np.nan, np.inf, -np.inf
        elif variant.kind == "denormal":
            # By blocks: subnormal gradients (in float16, which keeps m above them, none), and
            # gradients whose squares are.
            squares = np.arange(size) // OPTIMIZER_BLOCKSIZE % 2 == 1
            small, large = ((-24, -15), (-24, -15)) if half else ((-148, -127), (-75, -65))
            g = np.where(squares, draw.magnitudes(*large, size), draw.magnitudes(*small, size))
            g = g * draw.signs(size) * (squares | (not half))
        elif variant.kind == "huge":
            # (1 − β₂) g² overflows with g²: beyond 2**138. In float16 nothing can.
            huge = draw.signs(size) * draw.magnitudes(*((12, 15) if half else (70, 100)), size)
            g = np.where(draw.uniform(size) < 1 / 200, huge, g)
        grads.append(store(g, dtype))
    return params, grads


def _moments(draw: Draw, variant: _Variant) -> tuple[list[Float64], list[Float64]]:
    """States that could have come from earlier steps: m of the size of the gradients, v of m²."""
    first, second = [], []
    fresh = variant.kind.startswith("fresh")
    for size in variant.sizes:
        if variant.kind == "denormal":
            m = draw.signs(size) * draw.magnitudes(-148, -128, size)
            v = draw.magnitudes(-149, -128, size)
        else:
            m = draw.bell(size) * draw.magnitudes(-14, -6, size) * (not fresh)
            v = (m**2 + draw.magnitudes(-28, -14, size)) * (not fresh)
        first.append(m)
        second.append(v)
    return first, second


def _step_32bit(draw: Draw, variant: _Variant, dtype: str) -> Step32bit:
    params, grads = _tensors(draw, variant, dtype)
    first, second = _moments(draw, variant)
    states = [store(state, "float32") for state in first + second]
    return Step32bit(params, grads, states, list(variant.steps), variant.hyper)


def _step_8bit(draw: Draw, variant: _Variant, dtype: str) -> Step8bit:
    params, grads = _tensors(draw, variant, dtype)
    codes, absmax = [], []
    for moments, code in zip(_moments(draw, variant), _maps(), strict=True):
        for moment in moments:
            blocks = count_blocks(moment.size, OPTIMIZER_BLOCKSIZE)
            exact = values_of(store(moment, "float32")).reshape(1, -1)
            coded, scale = quantize_blockwise(exact, code, OPTIMIZER_BLOCKSIZE)
            codes.append(stored_bytes(coded.reshape(-1)))
            absmax.append(store(scale.reshape(blocks), "float32"))
    return Step8bit(params, grads, codes, absmax, list(variant.steps), variant.hyper)


def usual_step_8bit(draw: Draw, size: int, dtype: str) -> Step8bit:
    """One tensor of some size, as in training."""
    return _step_8bit(draw, _Variant(Hyper(weight_decay=0.01), (7,), (size,)), dtype)


def _cases(op: str, maker: _Maker, dtype: str) -> Iterator[Case]:
    blocksize = OPTIMIZER_BLOCKSIZE if op.endswith("8bit") else None
    demand = Demand(op, dtype, blocksize=blocksize, rule="adam")

    def case(name: str, variant: _Variant, mode: Mode = Mode.VALUES) -> Case:
        def make(draw: Draw) -> Problem:
            return maker(draw, variant, dtype)

        return Case(f"{op}/adam/{dtype}/{name}", variant.profile, demand, make, mode)

    for name, variant in _VARIANTS.items():
        only_full = name == "many-tensors" and dtype != "float32"
        yield case(name, replace(variant, profile=Profile.FULL) if only_full else variant)
    for mode in (Mode.BEFORE, Mode.OFFSET, Mode.REPEAT, Mode.THREADS):
        yield case(mode.value, replace(_VARIANTS["plain"], profile=Profile.CORE), mode)


def optimizer_cases() -> Iterator[Case]:
    """All cases of the optimizer steps."""
    for dtype in FORMATS:
        yield from _cases("optimizer_step_8bit", _step_8bit, dtype)
        yield from _cases("optimizer_step_32bit", _step_32bit, dtype)
