"""Parameters, gradients and states as training gives them, and as it should not."""

import math

import numpy as np
from numpy.typing import NDArray

from kq_conformance.cases.draw import Draw
from kq_conformance.cases.optimizer_problems import KnownMean, Step8bit, Step32bit, state_maps
from kq_conformance.cases.optimizer_variants import Variant
from kq_conformance.floats import (
    FLOAT32,
    FORMATS,
    Float64,
    Stored,
    store,
    stored_bytes,
    stored_corrections,
    values_of,
)
from kq_conformance.reference import (
    OPTIMIZER_BLOCKSIZE,
    RULES,
    count_blocks,
    quantize_blockwise,
    split_master,
)
from kq_conformance.subject import Rounding

__all__ = ["known_mean", "step_8bit", "step_32bit"]

# What the states of a rule are: averages of gradients ("m") and of their squares ("v"), or a
# momentum of updates that have been divided by a root ("u").
_KINDS = {
    "momentum": "m",
    "adam": "mv",
    "amsgrad": "mvv",
    "ademamix": "mmv",
    "lion": "m",
    "rmsprop": "v",
    "rmsprop_momentum": "vu",
    "rmsprop_centered": "vm",
    "rmsprop_centered_momentum": "vmu",
    "adagrad": "v",
    "lamb": "mv",
    "lamb_clipped": "mv",
    "lars": "m",
    "lars_clipped": "m",
    "sgd": "",
}
_LR = 2.0**-12  # in `known_mean`


def _damaged(g: Float64, i: int) -> Float64:
    """NaN and infinities in a gradient, or in every second tensor infinities alone."""
    if g.size > 2:
        g[g.size // 2], g[-1], g[0] = np.nan if i % 2 == 0 else np.inf, np.inf, -np.inf
    return g


def _gradient(draw: Draw, variant: Variant, i: int, size: int, dtype: str) -> Float64:
    """Magnitudes as in training, a few exact zeros; or what the variant says."""
    half = dtype == "float16"
    g = draw.bell(size) * draw.magnitudes(-14, -4, size) * (draw.uniform(size) > 1 / 16)
    if variant.kind.endswith("still"):
        return np.zeros(size)
    if variant.kind == "nonfinite":
        return _damaged(g, i)
    if variant.kind == "denormal":
        # By blocks: subnormal gradients (in float16, which keeps m above them, none), and
        # gradients whose squares are.
        squares: NDArray[np.bool_] = np.arange(size) // OPTIMIZER_BLOCKSIZE % 2 == 1
        small, large = ((-24, -15), (-24, -15)) if half else ((-148, -127), (-75, -65))
        g = np.where(squares, draw.magnitudes(*large, size), draw.magnitudes(*small, size))
        signed: Float64 = g * draw.signs(size) * (squares | (not half))
        return signed
    if variant.kind == "largest":
        # Up to two steps of the format between the largest numbers, in either direction.
        last = FORMATS[dtype].emax - FORMATS[dtype].precision + 1
        return draw.signs(size) * draw.magnitudes(last - 8, last + 1, size)
    if variant.kind == "huge":
        # (1 − β₂) g² overflows with g²: beyond 2**138. In float16 nothing can.
        huge = draw.signs(size) * draw.magnitudes(*((12, 15) if half else (70, 100)), size)
        return np.where(draw.uniform(size) < 1 / 200, huge, g)
    return g


def _last(draw: Draw, dtype: str, shape: tuple[int, ...]) -> Float64:
    """The largest and the second largest finite number of a type, of either sign."""
    to = FORMATS[dtype]
    last = np.where(draw.integers(2, *shape) == 0, to.largest, to.step(np.array(to.largest), -1))
    return draw.signs(*shape) * last


def _tensors(
    draw: Draw, variant: Variant, dtype: str, rounding: str
) -> tuple[list[Stored], list[Stored], Rounding]:
    """Parameters and gradients of all sizes, and what the rounding takes beside them."""
    params, grads, corrections = [], [], []
    for i, shape in enumerate(variant.shapes):
        size = math.prod(shape)
        p = 0.05 * draw.bell(*shape)
        g = _gradient(draw, variant, i, size, dtype)
        if variant.kind == "no-parameter" and i % 2 == 0:
            p = 0 * p
        elif variant.kind == "largest":
            p = _last(draw, dtype, shape)
        grads.append(store(g.reshape(shape), dtype))
        if rounding == "corrected":
            bits, correction = split_master(FLOAT32.round(p))
            params.append(Stored(bits, dtype))
            corrections.append(stored_corrections(correction))
        else:
            params.append(store(p, dtype))
    seeds = _seeds(draw, len(params)) if rounding == "stochastic" else []
    return params, grads, Rounding(rounding, seeds, corrections)


def _seeds(draw: Draw, count: int) -> list[int]:
    """Any 64-bit integers; the first three at the ends of their range."""
    words = draw.words(count).view(np.int64).tolist()
    return [0, -1, 2**63 - 1, *words][:count]


def _states(draw: Draw, variant: Variant, rule: str) -> list[list[Float64]]:
    """For each state of the rule those of all tensors, as earlier steps could have left them."""
    of_tensors = []
    for shape in variant.shapes:
        made = _of_tensor(draw, variant.kind, _KINDS[rule], math.prod(shape))
        of_tensors.append([each.reshape(shape) for each in made])
    return [[states[k] for states in of_tensors] for k in range(len(_KINDS[rule]))]


def _of_tensor(draw: Draw, variant_kind: str, kinds: str, size: int) -> list[Float64]:
    """The states of one tensor; the second state of a kind is another number of about its size."""
    there = not variant_kind.startswith("fresh")
    if variant_kind == "denormal":
        m = draw.signs(size) * draw.magnitudes(-148, -128, size)
        v = draw.magnitudes(-149, -128, size)
    else:
        m = draw.bell(size) * draw.magnitudes(-14, -6, size) * there
        v = (m**2 + draw.magnitudes(-28, -14, size)) * there
    made = []
    for k, kind in enumerate(kinds):
        if kind == "u":
            made.append(draw.bell(size) * there)
            continue
        state = m if kind == "m" else v
        if kind in kinds[:k]:
            state = state * draw.magnitudes(-1, 1, size)
        made.append(state)
    return made


def step_32bit(
    draw: Draw, rule: str, variant: Variant, dtype: str, rounding: str = "nearest"
) -> Step32bit:
    """A call with states in float32."""
    params, grads, rounded = _tensors(draw, variant, dtype, rounding)
    states = [store(each, "float32") for state in _states(draw, variant, rule) for each in state]
    return Step32bit(rule, params, grads, list(variant.steps), variant.hyper(rule), rounded, states)


def step_8bit(
    draw: Draw, rule: str, variant: Variant, dtype: str, rounding: str = "nearest"
) -> Step8bit:
    """A call with states in 8 bits."""
    params, grads, rounded = _tensors(draw, variant, dtype, rounding)
    codes, absmax = [], []
    for state, code in zip(_states(draw, variant, rule), state_maps(rule), strict=True):
        for each in state:
            blocks = count_blocks(each.size, OPTIMIZER_BLOCKSIZE)
            exact = values_of(store(each, "float32")).reshape(1, -1)
            coded, scale = quantize_blockwise(exact, code, OPTIMIZER_BLOCKSIZE)
            codes.append(stored_bytes(coded.reshape(each.shape)))
            absmax.append(store(scale.reshape(blocks), "float32"))
    return Step8bit(
        rule, params, grads, list(variant.steps), variant.hyper(rule), rounded, codes, absmax
    )


def known_mean(draw: Draw, rule: str) -> KnownMean:
    """Parameters between 1 and 2 that move by numbers which float32 adds exactly.

    By SGD with η = 1 and gradients of all magnitudes from 2⁻¹⁵ to 2⁻⁸; by Lion with η = 2⁻¹² and a
    momentum and gradients of one sign. Stochastic rounding of the results is what is asked.
    """
    size = 40_000
    p = 1 + (1 + draw.integers(126, size)) / 128
    g = draw.signs(size) * draw.magnitudes(-15, -8, size)
    own = {"lr": _LR} if rule == "lion" else {"lr": 1.0}
    states = [store(g, "float32") for _ in RULES[rule].signed]
    return KnownMean(
        rule,
        [store(p, "bfloat16")],
        [store(g, "bfloat16")],
        [12],
        RULES[rule].hyper(**own),
        Rounding("stochastic", _seeds(draw, 4)[3:]),
        states,
    )
