"""The enclosure of each rule."""

from collections.abc import Callable

import numpy as np

from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.optimizer import adaptive, momentum, squares
from kq_conformance.bounds.optimizer.step import Step
from kq_conformance.floats import Float64
from kq_conformance.reference import Hyper

__all__ = ["enclose_step"]

_Enclose = Callable[[Float64, Enclosure, tuple[Enclosure, ...], int, Hyper], Step]

_ENCLOSURES: dict[str, _Enclose] = {
    "sgd": momentum.sgd,
    "momentum": momentum.momentum,
    "adam": adaptive.adam,
    "amsgrad": adaptive.amsgrad,
    "ademamix": adaptive.ademamix,
    "lion": momentum.lion,
    "rmsprop": squares.rmsprop,
    "rmsprop_momentum": squares.rmsprop_momentum,
    "rmsprop_centered": squares.rmsprop,
    "rmsprop_centered_momentum": squares.rmsprop_momentum,
    "adagrad": squares.adagrad,
    "lamb": adaptive.lamb,
    "lamb_clipped": adaptive.lamb_clipped,
    "lars": momentum.lars,
    "lars_clipped": momentum.lars_clipped,
}


def enclose_step(
    rule: str, p: Float64, g: Float64, states: tuple[Enclosure, ...], step: int, hyper: Hyper
) -> Step:
    """All results that a float32 implementation of the step may produce.

    Args:
        rule: a name in `kq_conformance.reference.RULES`.
        p: float64 [n], parameter, exact.
        g: float64 [n], gradient, exact.
        states: of the rule; a decoded 8-bit state carries the rounding of its product.
        step: t, from 1.
        hyper: hyperparameters.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return _ENCLOSURES[rule](p, Enclosure.of(g), states, step, hyper)
