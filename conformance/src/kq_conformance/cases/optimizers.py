"""Cases of optimizer_step_8bit and optimizer_step_32bit."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kq_conformance.cases.case import Case, Demand, Mode, Problem, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.optimizer_problems import Step8bit, Step32bit, moment_maps
from kq_conformance.floats import FORMATS, Float64, Stored, store, stored_bytes, values_of
from kq_conformance.reference import (
    OPTIMIZER_BLOCKSIZE,
    Hyper,
    count_blocks,
    quantize_blockwise,
)

__all__ = ["optimizer_cases", "usual_step_8bit"]

# One element, a block less one, a block, one more, several blocks with a tail, nothing: one list.
_SHAPES: tuple[tuple[int, ...], ...] = ((1,), (255,), (256,), (257,), (1000,), (0,))


@dataclass(frozen=True)
class _Variant:
    """One setting of the hyperparameters and of what is special about the inputs.

    Attributes:
        hyper: hyperparameters.
        steps: the number of the step of each tensor.
        shapes: of the tensors; a state kept in 8 bits lies in flat blocks, whatever the shape.
        kind: "": as in training; "fresh": states of a first step, zero; "nonfinite": NaN and Inf in
            gradients; "still": all gradients zero; "fresh-still": both; "denormal": gradients and
            moments below the normal range, and gradients whose squares are; "huge": some gradients
            whose squares overflow.
        profile: the smallest profile that asks for it.
    """

    hyper: Hyper
    steps: tuple[int, ...] = (2, 7, 30, 100, 1000, 3)
    shapes: tuple[tuple[int, ...], ...] = _SHAPES
    kind: str = ""
    profile: Profile = Profile.CORE


_FIRST = (1,) * len(_SHAPES)
_MANY = 150  # tensors of a list: more than one launch of a multi-tensor kernel takes

_VARIANTS = {
    "plain": _Variant(Hyper(), profile=Profile.QUICK),
    "first-step": _Variant(Hyper(weight_decay=0.01), _FIRST, kind="fresh"),
    "decoupled-decay": _Variant(Hyper(lr=1e-2, weight_decay=0.1), profile=Profile.QUICK),
    "coupled-decay": _Variant(Hyper(lr=1e-2, weight_decay=0.1, decoupled=False)),
    "maximize": _Variant(Hyper(weight_decay=0.01, maximize=True)),
    "maximize-coupled": _Variant(Hyper(weight_decay=0.3, decoupled=False, maximize=True)),
    "late": _Variant(Hyper(lr=3e-5, beta2=0.95), (100_000,) * len(_SHAPES)),
    "beyond-int32": _Variant(Hyper(), (2**31 + 7,) * len(_SHAPES)),
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
    "empty-tensor": _Variant(Hyper(), (5,), ((0,),)),
    "shapes": _Variant(Hyper(), (4, 5, 6, 7, 8), ((), (1, 1), (5, 103), (3, 4, 25), (2, 0, 3))),
    "large": _Variant(Hyper(weight_decay=0.01), (3, 20), (((1 << 16) + 70,), (3,))),
    "many-tensors": _Variant(
        Hyper(), tuple(range(1, _MANY + 1)), tuple((1 + 37 * i % 301,) for i in range(_MANY))
    ),
}


_Maker = Callable[[Draw, _Variant, str], Problem]


def _tensors(draw: Draw, variant: _Variant, dtype: str) -> tuple[list[Stored], list[Stored]]:
    """Parameters and gradients of all sizes; magnitudes as in training, a few exact zeros."""
    params, grads = [], []
    half = dtype == "float16"
    for shape in variant.shapes:
        size = math.prod(shape)
        params.append(store(0.05 * draw.bell(*shape), dtype))
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
        grads.append(store(g.reshape(shape), dtype))
    return params, grads


def _moments(draw: Draw, variant: _Variant) -> tuple[list[Float64], list[Float64]]:
    """States that could have come from earlier steps: m of the size of the gradients, v of m²."""
    first, second = [], []
    fresh = variant.kind.startswith("fresh")
    for shape in variant.shapes:
        size = math.prod(shape)
        if variant.kind == "denormal":
            m = draw.signs(size) * draw.magnitudes(-148, -128, size)
            v = draw.magnitudes(-149, -128, size)
        else:
            m = draw.bell(size) * draw.magnitudes(-14, -6, size) * (not fresh)
            v = (m**2 + draw.magnitudes(-28, -14, size)) * (not fresh)
        first.append(m.reshape(shape))
        second.append(v.reshape(shape))
    return first, second


def _step_32bit(draw: Draw, variant: _Variant, dtype: str) -> Step32bit:
    params, grads = _tensors(draw, variant, dtype)
    first, second = _moments(draw, variant)
    states = [store(state, "float32") for state in first + second]
    return Step32bit(params, grads, states, list(variant.steps), variant.hyper)


def _step_8bit(draw: Draw, variant: _Variant, dtype: str) -> Step8bit:
    params, grads = _tensors(draw, variant, dtype)
    codes, absmax = [], []
    for moments, code in zip(_moments(draw, variant), moment_maps(), strict=True):
        for moment in moments:
            blocks = count_blocks(moment.size, OPTIMIZER_BLOCKSIZE)
            exact = values_of(store(moment, "float32")).reshape(1, -1)
            coded, scale = quantize_blockwise(exact, code, OPTIMIZER_BLOCKSIZE)
            codes.append(stored_bytes(coded.reshape(moment.shape)))
            absmax.append(store(scale.reshape(blocks), "float32"))
    return Step8bit(params, grads, codes, absmax, list(variant.steps), variant.hyper)


def usual_step_8bit(draw: Draw, size: int, dtype: str) -> Step8bit:
    """One tensor of some size, as in training."""
    return _step_8bit(draw, _Variant(Hyper(weight_decay=0.01), (7,), ((size,),)), dtype)


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
