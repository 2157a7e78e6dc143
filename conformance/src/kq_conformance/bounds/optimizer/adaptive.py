"""Enclosures of Adam and its kin."""

import numpy as np

from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.optimizer.step import (
    Step,
    averaged,
    prepared,
    root_of,
    shortened,
    squared,
)
from kq_conformance.floats import Float64
from kq_conformance.reference import Hyper, ademamix_factors

__all__ = ["adam", "ademamix", "amsgrad", "lamb", "lamb_clipped"]

_States = tuple[Enclosure, ...]


def _second(v: Enclosure, g: Enclosure, hyper: Hyper) -> Enclosure:
    """β₂v + (1 − β₂)g²."""
    beta2 = hyper.own["beta2"]
    return v.by_constant(beta2).plus(squared(g, 1 - beta2))


def _corrections(step: int, hyper: Hyper) -> tuple[float, float]:
    """1 − β₁ᵗ and √(1 − β₂ᵗ)."""
    own = hyper.own
    return 1 - own["beta1"] ** step, float(np.sqrt(1 - own["beta2"] ** step))


def _denominator(v: Enclosure, correction2: float, hyper: Hyper) -> Enclosure:
    """√v + ε√c₂; or √v/√c₂ + ε: the root, the constant, the division or product; the sum."""
    floor = Enclosure.of(np.full(v.low.shape, hyper.own["eps"] * correction2)).rounded(2)
    return v.root().rounded(3).plus(floor)


def _update(m: Enclosure, v: Enclosure, step: int, hyper: Hyper, lr: float) -> Enclosure:
    """η m̂ / (√v̂ + ε).

    Step size (three roundings if put together in float32), its product with m, the quotient.
    Roundings come where they happen: a product that is subnormal is divided afterwards.
    """
    correction1, correction2 = _corrections(step, hyper)
    product = m.scaled(lr * correction2 / correction1).rounded(4)
    return product.over(_denominator(v, correction2, hyper)).rounded()


def adam(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by η m̂ / (√v̂ + ε)."""
    param, g = prepared(Enclosure.of(p), g, hyper)
    m, v = averaged(states[0], g, hyper.own["beta1"]), _second(states[1], g, hyper)
    return Step(param.plus(-_update(m, v, step, hyper, hyper.lr)), (m, v))


def amsgrad(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """The same with the larger one of v and the largest so far, which rounds nothing."""
    param, g = prepared(Enclosure.of(p), g, hyper)
    m, v = averaged(states[0], g, hyper.own["beta1"]), _second(states[1], g, hyper)
    largest = states[2].maximum(v)
    return Step(param.plus(-_update(m, largest, step, hyper, hyper.lr)), (m, v, largest))


def ademamix(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """η (m₁/c₁ + αₜm₂) / (√v̂ + ε): each term a constant and a product; their sum; then as Adam."""
    own = hyper.own
    alpha, beta3 = ademamix_factors(step, own)
    param, g = prepared(Enclosure.of(p), g, hyper)
    fast, v = averaged(states[0], g, own["beta1"]), _second(states[2], g, hyper)
    slow = averaged(states[1], g, beta3)
    correction1, correction2 = _corrections(step, hyper)
    mixed = fast.scaled(1 / correction1).rounded(2).plus(slow.by_constant(alpha))
    product = mixed.scaled(hyper.lr * correction2).rounded(3)
    update = product.over(_denominator(v, correction2, hyper)).rounded()
    return Step(param.plus(-update), (fast, slow, v))


def lamb(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by η(‖p‖/‖u‖)u with u = r + λp: η, and its product with (‖p‖/‖u‖)u."""
    own, param = hyper.own, Enclosure.of(p)
    _, g = prepared(param, g, hyper)
    m, v = averaged(states[0], g, own["beta1"]), _second(states[1], g, hyper)
    if own["bias_correction"]:
        u = _update(m, v, step, hyper, 1.0)
    else:
        u = m.over(root_of(v, own["eps"])).rounded()
    if hyper.decoupled and hyper.weight_decay:
        u = u.plus(param.by_constant(hyper.weight_decay))
    return Step(param.plus(-_trusted(u, param.norm()).by_constant(hyper.lr)), (m, v))


def _trusted(u: Enclosure, size: Enclosure) -> Enclosure:
    """(‖p‖/‖u‖)u, and u if one of the norms is 0: both norms, their quotient and the product."""
    length = u.norm()
    if size.high == 0 or length.high == 0:
        return u
    if length.low == 0:
        # Nothing tells how short u is; but no element is longer than all, so than ‖p‖ afterwards.
        longest = np.maximum(size.high, u.magnitude.high)
        low, high = (np.where(u.low >= 0, 0, -longest), np.where(u.high <= 0, 0, longest))
        return Enclosure(low, high).rounded(4)
    return (u * size.over(length).rounded()).rounded()


def lamb_clipped(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by sηr: η, its product with s, and the product with r."""
    param, g = prepared(Enclosure.of(p), g, hyper)
    m, v = averaged(states[0], g, hyper.own["beta1"]), _second(states[1], g, hyper)
    r = _update(m, v, step, hyper, 1.0)
    factor = shortened(r, p, hyper).by_constant(hyper.lr)
    return Step(param.plus(-(r * factor).rounded()), (m, v))
