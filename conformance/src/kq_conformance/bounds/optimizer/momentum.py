"""Enclosures of SGD, Lion and LARS."""

import numpy as np

from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.optimizer.step import Step, averaged, descended, prepared, shortened
from kq_conformance.floats import Float64
from kq_conformance.reference import Hyper

__all__ = ["lars", "lars_clipped", "lion", "momentum", "sgd"]

_States = tuple[Enclosure, ...]


def sgd(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by ηg."""
    del step
    param, g = prepared(Enclosure.of(p), g, hyper)
    return Step(param.plus(-g.by_constant(hyper.lr)), states)


def _accumulated(
    g: Enclosure, buf: Enclosure, step: int, hyper: Hyper
) -> tuple[Enclosure, Enclosure]:
    """μ buf + (1 − d)g, and g + μ times that."""
    own = hyper.own
    if step > 1:
        g_share = g.by_constant(1 - own["dampening"])
        buf = buf.by_constant(own["momentum"]).plus(g_share)
    else:
        buf = g
    u = g.plus(buf.by_constant(own["momentum"])) if own["nesterov"] else buf
    return u, buf


def momentum(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by ηu."""
    param, g = prepared(Enclosure.of(p), g, hyper)
    u, buf = _accumulated(g, states[0], step, hyper)
    return Step(param.plus(-u.by_constant(hyper.lr)), (buf,))


def lion(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by η sign(β₁m + (1 − β₁)g): the product with a sign is exact, η is rounded."""
    del step
    param, g = prepared(Enclosure.of(p), g, hyper)
    direction = averaged(states[0], g, hyper.own["beta1"]).sign()
    moved = direction.scaled(hyper.lr).rounded()
    return Step(param.plus(-moved), (averaged(states[0], g, hyper.own["beta2"]),))


def lars(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """The momentum of cτ(g + λp), τ = ‖p‖ / (‖g‖ + λ‖p‖ + ε) from two norms that are rounded."""
    own, param = hyper.own, Enclosure.of(p)
    g = descended(g, hyper)
    size, slope = param.norm(), g.norm()
    trust = Enclosure.of(np.ones(1))
    if size.high != 0 and slope.high != 0:
        eps = Enclosure.of(np.full(1, own["eps"])).rounded()
        whole = slope.plus(size.by_constant(hyper.weight_decay)).plus(eps)
        trust = size.by_constant(own["trust_coefficient"]).over(whole).rounded()
    grown = g.plus(param.by_constant(hyper.weight_decay)) if hyper.weight_decay else g
    u, buf = _accumulated((grown * trust).rounded(), states[0], step, hyper)
    return Step(param.plus(-u.by_constant(hyper.lr)), (buf,))


def lars_clipped(p: Float64, g: Enclosure, states: _States, step: int, hyper: Hyper) -> Step:
    """Step by sηu: η, its product with s, and the product with u."""
    param, g = prepared(Enclosure.of(p), g, hyper)
    u, buf = _accumulated(g, states[0], step, hyper)
    factor = shortened(u, p, hyper).by_constant(hyper.lr)
    return Step(param.plus(-(u * factor).rounded()), (buf,))
