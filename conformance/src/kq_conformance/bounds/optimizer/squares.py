"""Enclosures of RMSprop and Adagrad."""

import numpy as np

from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.optimizer.step import Step, averaged, prepared, root_of, squared
from kq_conformance.floats import Float64
from kq_conformance.reference import Hyper

__all__ = ["adagrad", "rmsprop", "rmsprop_momentum"]

_States = tuple[Enclosure, ...]


def _squares(g: Enclosure, states: _States, hyper: Hyper) -> tuple[Enclosure, _States]:
    """√v + ε and the new v; or √max(v − mean², 0) + ε: square and difference are rounded."""
    alpha, eps = hyper.own["alpha"], hyper.own["eps"]
    v = states[0].by_constant(alpha).plus(squared(g, 1 - alpha))
    if len(states) == 1:
        return root_of(v, eps), (v,)
    mean = averaged(states[1], g, alpha)
    spread = v.plus(-mean.squared().rounded())
    return root_of(spread.maximum(Enclosure.of(np.zeros(1))), eps), (v, mean)


def rmsprop(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by ηg / denominator: η, its product with g, the quotient."""
    del step
    param, g = prepared(Enclosure.of(p), g, hyper)
    denominator, states = _squares(g, states, hyper)
    update = g.by_constant(hyper.lr).over(denominator).rounded()
    return Step(param.plus(-update), states)


def rmsprop_momentum(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """μ buf + g / denominator, the quotient rounded; p − η times that."""
    del step
    param, g = prepared(Enclosure.of(p), g, hyper)
    denominator, squares = _squares(g, states[:-1], hyper)
    quotient = g.over(denominator).rounded()
    buf = states[-1].by_constant(hyper.own["momentum"]).plus(quotient)
    return Step(param.plus(-buf.by_constant(hyper.lr)), (*squares, buf))


def adagrad(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Sum + g², the square rounded; p − η/(1 + (t−1) lr_decay) g / (√sum + ε)."""
    param, g = prepared(Enclosure.of(p), g, hyper)
    total = states[0].plus(squared(g))
    rate = hyper.lr / (1 + (step - 1) * hyper.own["lr_decay"])
    update = g.by_constant(rate).over(root_of(total, hyper.own["eps"])).rounded()
    return Step(param.plus(-update), (total,))
