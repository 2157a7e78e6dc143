"""Rules whose only state, if any, is a momentum: SGD, Lion, LARS."""

import numpy as np

from kq_conformance.floats import Float64
from kq_conformance.reference.optimizer.hyper import Hyper, descended, prepared
from kq_conformance.reference.optimizer.states import States, decayed, norm, stored

__all__ = ["lars", "lars_clipped", "lion", "momentum", "sgd", "shortened"]


def sgd(p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> tuple[Float64, States]:
    """Step by ηg."""
    del step
    p, g = prepared(p, g, hyper)
    return p - hyper.lr * g, states


def _accumulated(g: Float64, buf: Float64, step: int, hyper: Hyper) -> tuple[Float64, Float64]:
    """The update u and the new buffer of torch.optim.SGD.

    buf ← g at the first step, else μ buf + (1 − d)g;  u = g + μ buf with Nesterov's momentum, else
    buf.
    """
    own = hyper.own
    buf = stored(g if step == 1 else own["momentum"] * buf + (1 - own["dampening"]) * g)
    return (g + own["momentum"] * buf if own["nesterov"] else buf), buf


def momentum(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """Step by ηu with u as torch.optim.SGD has it. Source: torch.optim.SGD, "algorithm"."""
    p, g = prepared(p, g, hyper)
    u, buf = _accumulated(g, states[0], step, hyper)
    return p - hyper.lr * u, (buf,)


def lion(p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> tuple[Float64, States]:
    """Step by η sign(β₁m + (1 − β₁)g), m ← β₂m + (1 − β₂)g.

    The sign of zero is zero, and that of NaN is NaN. Source: Lion (arXiv:2302.06675), algorithm 2.
    """
    del step
    p, g = prepared(p, g, hyper)
    (m,) = states
    direction = np.sign(decayed(m, g, hyper.own["beta1"]))
    return p - hyper.lr * direction, (decayed(m, g, hyper.own["beta2"]),)


def lars(p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> tuple[Float64, States]:
    """Layer-wise adaptive rate: the momentum of cτ(g + λp), τ = ‖p‖ / (‖g‖ + λ‖p‖ + ε).

    cτ is 1 if ‖p‖ or ‖g‖ is 0. Source: LARS (arXiv:1708.03888), algorithm 1.
    """
    own, g = hyper.own, descended(g, hyper)
    size, slope = norm(p), norm(g)
    trust = np.float64(1)
    if size != 0 and slope != 0:
        scaled = own["trust_coefficient"] * size
        trust = scaled / (slope + hyper.weight_decay * size + own["eps"])
    u, buf = _accumulated(trust * (g + hyper.weight_decay * p), states[0], step, hyper)
    return p - hyper.lr * u, (buf,)


def lars_clipped(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """As `momentum`, with u no longer than max_unorm ‖p‖.

    Source: bitsandbytes' LARS, with the norm of the update that is made.
    """
    size = norm(p)
    p, g = prepared(p, g, hyper)
    u, buf = _accumulated(g, states[0], step, hyper)
    return p - hyper.lr * shortened(u, size, hyper) * u, (buf,)


def shortened(u: Float64, size: np.float64, hyper: Hyper) -> np.float64:
    """min(1, max_unorm ‖p‖ / ‖u‖), and 1 if ‖u‖ is 0."""
    length = norm(u)
    if length == 0:
        return np.float64(1)
    return np.float64(np.minimum(1.0, hyper.own["max_unorm"] * size / length))
