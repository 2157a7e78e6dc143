"""Rules that divide by the root of squared gradients alone: RMSprop and Adagrad."""

import numpy as np

from kq_conformance.floats import Float64
from kq_conformance.reference.optimizer.hyper import Hyper, prepared
from kq_conformance.reference.optimizer.states import States, decayed, stored

__all__ = ["adagrad", "rmsprop", "rmsprop_momentum"]


def _quotient(g: Float64, states: States, hyper: Hyper) -> tuple[Float64, States]:
    """G / (√v + ε) and the new v; with a mean as a second state √max(v − mean², 0) for √v.

    The maximum is not in torch.optim.RMSprop: states that were rounded to 8 bits need it.
    """
    alpha = hyper.own["alpha"]
    v = decayed(states[0], g**2, alpha)
    if len(states) == 1:
        return g / (np.sqrt(v) + hyper.own["eps"]), (v,)
    mean = decayed(states[1], g, alpha)
    spread = np.maximum(v - mean**2, 0.0)
    return g / (np.sqrt(spread) + hyper.own["eps"]), (v, mean)


def rmsprop(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """Step by ηg / (√v + ε), v ← αv + (1−α)g²; centered: mean ← α mean + (1−α)g.

    Source: torch.optim.RMSprop, "algorithm".
    """
    del step
    p, g = prepared(p, g, hyper)
    u, states = _quotient(g, states, hyper)
    return p - hyper.lr * u, states


def rmsprop_momentum(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """As `rmsprop` with buf ← μ buf + g / (√v + ε),  p ← p − η buf; the last state is buf."""
    del step
    p, g = prepared(p, g, hyper)
    u, squares = _quotient(g, states[:-1], hyper)
    buf = stored(hyper.own["momentum"] * states[-1] + u)
    return p - hyper.lr * buf, (*squares, buf)


def adagrad(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """Step by η / (1 + (t−1) lr_decay) · g / (√sum + ε), sum ← sum + g².

    Source: Adagrad (JMLR 12, 2011), figure 1 (diagonal); torch.optim.Adagrad, "algorithm".
    """
    p, g = prepared(p, g, hyper)
    total = stored(states[0] + g**2)
    rate = hyper.lr / (1 + (step - 1) * hyper.own["lr_decay"])
    return p - rate * g / (np.sqrt(total) + hyper.own["eps"]), (total,)
