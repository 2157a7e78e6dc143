"""What all rules share: the gradient and the decay, moments, and the lengths of updates."""

from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.floats import Float64
from kq_conformance.reference import Hyper

__all__ = ["Step", "averaged", "descended", "prepared", "root_of", "shortened", "squared"]


@dataclass(frozen=True, eq=False)
class Step:
    """What one step may leave behind: the parameter, not yet rounded to its type, and states."""

    p: Enclosure
    states: tuple[Enclosure, ...]


def descended(g: Enclosure, hyper: Hyper) -> Enclosure:
    """The gradient over its scale: a division, or a product with the reciprocal; no sign rounds."""
    g = g.by_constant(1 / hyper.grad_scale)
    return -g if hyper.maximize else g


def prepared(p: Enclosure, g: Enclosure, hyper: Hyper) -> tuple[Enclosure, Enclosure]:
    """p(1 − ηλ) and g, or p and g + λp."""
    g = descended(g, hyper)
    if hyper.weight_decay and hyper.decoupled:
        return p.by_constant(1 - hyper.lr * hyper.weight_decay), g
    if hyper.weight_decay:
        return p, g.plus(p.by_constant(hyper.weight_decay))
    return p, g


def averaged(state: Enclosure, g: Enclosure, beta: float) -> Enclosure:
    """βx + (1 − β)g."""
    return state.by_constant(beta).plus(g.by_constant(1 - beta))


def squared(g: Enclosure, factor: float = 1.0) -> Enclosure:
    """(1 − β)g²: factor, square and product are rounded; factor and g may also meet first.

    The square may overflow before the factor makes it small again.
    """
    square = g.squared()
    product = square.scaled(factor).rounded(1 if factor == 1 else 3)
    overflow = np.isinf(square.rounded().high)
    return Enclosure(product.low, np.where(overflow, np.inf, product.high))


def root_of(v: Enclosure, eps: float) -> Enclosure:
    """√v + ε, ε rounded to float32."""
    return v.root().rounded().plus(Enclosure.of(np.full(v.low.shape, eps)).rounded())


def shortened(u: Enclosure, p: Float64, hyper: Hyper) -> Enclosure:
    """min(1, max_unorm ‖p‖ / ‖u‖), and 1 if ‖u‖ is 0: constant, product and quotient."""
    longest = Enclosure.of(p).norm().by_constant(hyper.own["max_unorm"])
    one, length = Enclosure.of(np.ones(1)), u.norm()
    if length.high == 0:
        return one
    return longest.over(length).rounded().minimum(one)
