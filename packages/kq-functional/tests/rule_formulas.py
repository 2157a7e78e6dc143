"""The update rules in float64, as their papers and torch.optim have them, with error bounds.

Nothing is shared with the package: what is folded or fused there is written out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from running_error import Approx, exact, factor
from torch import Tensor

Hyper = dict[str, float]
Formula = Callable[[Approx, list[Approx], int, Hyper], tuple[Approx, list[Approx]]]


def average(old: Approx, new: Approx, decay: float) -> Approx:
    return old * factor(decay) + new * factor(1 - decay)


def sgd(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    return g, []


def momentum(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    (buf,) = states
    mu = factor(h["momentum"])
    buf = g if step == 1 else buf * mu + g * factor(1 - h["dampening"])
    return (g + buf * mu if h["nesterov"] else buf), [buf]


def moments(g: Approx, m: Approx, v: Approx, h: Hyper) -> tuple[Approx, Approx]:
    return average(m, g, h["beta1"]), average(v, g * g, h["beta2"])


def normalized(m: Approx, v: Approx, step: int, h: Hyper) -> Approx:
    corrected = m / factor(1 - h["beta1"] ** step)
    return corrected / (v.sqrt() / factor(math.sqrt(1 - h["beta2"] ** step)) + factor(h["eps"]))


def adam(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    m, v = moments(g, *states, h)
    return normalized(m, v, step, h), [m, v]


def amsgrad(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    m, v = moments(g, *states[:2], h)
    largest = states[2].maximum(v)
    return normalized(m, largest, step, h), [m, v, largest]


def ademamix(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    m1, m2, v = states
    m1, v = moments(g, m1, v, h)
    beta3, alpha = h["beta3"], h["alpha"]
    if h["t_beta3"]:
        part, log1, log3 = step / h["t_beta3"], math.log(h["beta1"]), math.log(beta3)
        beta3 = min(math.exp(log1 * log3 / ((1 - part) * log3 + part * log1)), beta3)
    if h["t_alpha"]:
        alpha = min(step * alpha / h["t_alpha"], alpha)
    m2 = average(m2, g, beta3)
    root = v.sqrt() / factor(math.sqrt(1 - h["beta2"] ** step))
    mixed = m1 / factor(1 - h["beta1"] ** step) + m2 * factor(alpha)
    return mixed / (root + factor(h["eps"])), [m1, m2, v]


def lion(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    (m,) = states
    return average(m, g, h["beta1"]).sign(), [average(m, g, h["beta2"])]


def rmsprop(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    v, *others = states
    new = [average(v, g * g, h["alpha"])]
    scale = new[0]
    if len(others) == 1 + ("momentum" in h):
        mean = average(others[0], g, h["alpha"])
        scale = (scale - mean * mean).maximum(factor(0.0))
        new.append(mean)
    u = g / (scale.sqrt() + factor(h["eps"]))
    if "momentum" in h:
        u = others[-1] * factor(h["momentum"]) + u
        new.append(u)
    return u, new


def adagrad(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    total = states[0] + g * g
    rate = factor(1 / (1 + (step - 1) * h["lr_decay"]))
    return rate * g / (total.sqrt() + factor(h["eps"])), [total]


def lamb(g: Approx, states: list[Approx], step: int, h: Hyper) -> tuple[Approx, list[Approx]]:
    m, v = moments(g, *states, h)
    if h["bias_correction"]:
        return normalized(m, v, step, h), [m, v]
    return m / (v.sqrt() + factor(h["eps"])), [m, v]


FORMULAS: dict[str, Formula] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
    "amsgrad": amsgrad,
    "ademamix": ademamix,
    "lion": lion,
    "rmsprop": rmsprop,
    "rmsprop_momentum": rmsprop,
    "rmsprop_centered": rmsprop,
    "rmsprop_centered_momentum": rmsprop,
    "adagrad": adagrad,
    "lamb": lamb,
    "lamb_clipped": adam,
    "lars": momentum,
    "lars_clipped": momentum,
}


def reference(
    rule: str, p: Tensor, g: Tensor, states: Sequence[Tensor], step: int, options: dict[str, Any]
) -> tuple[Approx, list[Approx]]:
    """The new parameter before it is rounded to its dtype, and the new states."""
    o = {"weight_decay": 0.0, "decoupled": False, "maximize": False, "grad_scale": 1.0} | options
    rate, decay = o["lr"], factor(o["weight_decay"])
    param, grad = exact(p), exact(g)
    if o["grad_scale"] != 1:
        grad = grad / factor(o["grad_scale"])
    if o["maximize"]:
        grad = -grad
    before, one = param, factor(1.0)
    trust = one
    if rule == "lars":
        trust = factor(o["trust_coefficient"]) * param.norm()
        trust = trust / (grad.norm() + decay * param.norm() + factor(o["eps"]))
    if not o["decoupled"] and o["weight_decay"]:
        grad = grad + param * decay
    if rule == "lars":
        grad, trust = grad * trust, one
    u, new = FORMULAS[rule](grad, [exact(s) for s in states], step, o)
    if o["decoupled"] and rule == "lamb":
        u = u + param * decay
    elif o["decoupled"]:
        param = param * factor(1 - rate * o["weight_decay"])
    if rule == "lamb":
        trust = before.norm() / u.norm()
    elif "max_unorm" in o:
        trust = (factor(o["max_unorm"]) * before.norm() / u.norm()).minimum(one)
    return param - u * trust * factor(rate), new
