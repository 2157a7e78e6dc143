"""Update rules of the optimizers: one pure function each, on float32 tensors of one shape.

A function gets the gradient `g`, which it leaves alone, the `states`, which it updates in place,
the number of the `step`, from 1, and its hyperparameters as keywords, whose annotations say what is
accepted. It returns a direction u, which may be `g` or a state itself, and a factor f: the
parameter moves to p − lr f u. Weight decay, norms and rounding belong to the caller.

Constants are computed in double and rounded to float32 once; that is why f is apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor


@dataclass(frozen=True)
class Range:
    """Which numbers are accepted: from `least` to below `limit`, in the range of float32."""

    words: str
    least: float = -(2.0**127)
    limit: float = 2.0**127

    def __contains__(self, value: float) -> bool:
        return self.least <= value < self.limit


class Flag(Range):
    """0 and 1."""

    def __contains__(self, value: float) -> bool:
        return value in (0, 1)


Decay = Annotated[float, Range("at least 0 and below 1", 0, 1)]
NotNegative = Annotated[float, Range("not negative and below 2^127", 0)]
Finite = Annotated[float, Range("between -2^127 and 2^127")]
Switch = Annotated[float, Flag("0 or 1")]

Direction = tuple[Tensor, float]
States = Sequence[Tensor]


def sgd(g: Tensor, states: States, step: int) -> Direction:
    """Stochastic gradient descent: u = g."""
    return g, 1.0


def momentum(
    g: Tensor,
    states: States,
    step: int,
    *,
    momentum: NotNegative,
    dampening: Finite,
    nesterov: Switch,
) -> Direction:
    """Momentum as in torch.optim.SGD (Sutskever et al., 2013).

    buf ← momentum buf + (1 − dampening) g, and g in the first step; u = buf, or g + momentum buf
    if nesterov.
    """
    (buf,) = states
    if step == 1:
        buf.copy_(g)
    else:
        buf.mul_(momentum).add_(g, alpha=1 - dampening)
    return (g.add(buf, alpha=momentum) if nesterov else buf), 1.0


def _update_moments(g: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float) -> None:
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)


def _corrections(step: int, beta1: float, beta2: float) -> tuple[float, float]:
    return 1 - beta1**step, math.sqrt(1 - beta2**step)


def adam(
    g: Tensor, states: States, step: int, *, beta1: Decay, beta2: Decay, eps: NotNegative
) -> Direction:
    """Adam (Kingma & Ba, 2015).

    m ← beta1 m + (1 − beta1) g; v ← beta2 v + (1 − beta2) g²; with c1 = 1 − beta1^step and
    c2 = sqrt(1 − beta2^step) the step is (m / c1) / (sqrt(v) / c2 + eps), computed as
    (c2 / c1) m / (sqrt(v) + eps c2).
    """
    m, v = states
    _update_moments(g, m, v, beta1, beta2)
    c1, c2 = _corrections(step, beta1, beta2)
    return m / v.sqrt().add_(eps * c2), c2 / c1


def amsgrad(
    g: Tensor, states: States, step: int, *, beta1: Decay, beta2: Decay, eps: NotNegative
) -> Direction:
    """Adam with vmax ← max(vmax, v) instead of v under the root (Reddi et al., 2018)."""
    m, v, vmax = states
    _update_moments(g, m, v, beta1, beta2)
    torch.maximum(vmax, v, out=vmax)
    c1, c2 = _corrections(step, beta1, beta2)
    return m / vmax.sqrt().add_(eps * c2), c2 / c1


def ademamix(
    g: Tensor,
    states: States,
    step: int,
    *,
    beta1: Decay,
    beta2: Decay,
    beta3: Decay,
    alpha: NotNegative,
    eps: NotNegative,
    t_alpha: NotNegative,
    t_beta3: NotNegative,
) -> Direction:
    """AdEMAMix (Pagliardini et al., arXiv 2409.03137): Adam with a second, slow first moment.

    u = (m1 / c1 + alpha_t m2) / (sqrt(v) / c2 + eps). alpha_t grows to alpha in t_alpha steps, the
    decay of m2 from beta1 to beta3 in t_beta3; 0 stands for constant.
    """
    m1, m2, v = states
    _update_moments(g, m1, v, beta1, beta2)
    slow = _slow_decay(step, beta1, beta3, t_beta3)
    m2.mul_(slow).add_(g, alpha=1 - slow)
    mix = min(step * alpha / t_alpha, alpha) if t_alpha else alpha
    c1, c2 = _corrections(step, beta1, beta2)
    mixed = (m1 * (1 / c1)).add_(m2, alpha=mix)
    return mixed.div_(v.sqrt().add_(eps * c2)), c2


def _slow_decay(step: int, beta1: float, beta3: float, t_beta3: float) -> float:
    """Return beta3 of AdEMAMix at a step: its half-life grows linearly (the paper's eq. 5)."""
    if step >= t_beta3 or beta3 == 0:
        return beta3
    part = step / t_beta3
    if beta1 == 0:  # the limit of what follows
        return math.pow(beta3, 1 / part)
    log1, log3 = math.log(beta1), math.log(beta3)
    return min(math.exp(log1 * log3 / ((1 - part) * log3 + part * log1)), beta3)


def lion(g: Tensor, states: States, step: int, *, beta1: Decay, beta2: Decay) -> Direction:
    """Lion (Chen et al., arXiv 2302.06675).

    u = sign(beta1 m + (1 − beta1) g), where sign(0) = 0 and sign(NaN) = NaN; then
    m ← beta2 m + (1 − beta2) g.
    """
    (m,) = states
    mixed = (m * beta1).add_(g, alpha=1 - beta1)
    m.mul_(beta2).add_(g, alpha=1 - beta2)
    return mixed.sign().masked_fill_(mixed.isnan(), torch.nan), 1.0


def rmsprop(g: Tensor, states: States, step: int, *, alpha: Decay, eps: NotNegative) -> Direction:
    """RMSprop (Hinton, 2012): v ← alpha v + (1 − alpha) g²; u = g / (sqrt(v) + eps)."""
    (v,) = states
    v.mul_(alpha).addcmul_(g, g, value=1 - alpha)
    return g / v.sqrt().add_(eps), 1.0


def rmsprop_momentum(
    g: Tensor,
    states: States,
    step: int,
    *,
    alpha: Decay,
    eps: NotNegative,
    momentum: NotNegative,
) -> Direction:
    """RMSprop with buf ← momentum buf + g / (sqrt(v) + eps); u = buf."""
    v, buf = states
    u, factor = rmsprop(g, [v], step, alpha=alpha, eps=eps)
    return buf.mul_(momentum).add_(u), factor


def rmsprop_centered(
    g: Tensor, states: States, step: int, *, alpha: Decay, eps: NotNegative
) -> Direction:
    """RMSprop with the variance, v − mean², instead of v (Graves, arXiv 1308.0850).

    mean ← alpha mean + (1 − alpha) g. Stored states are rounded, so that the difference can fall
    below 0; it is taken as 0 then.
    """
    v, mean = states
    v.mul_(alpha).addcmul_(g, g, value=1 - alpha)
    mean.mul_(alpha).add_(g, alpha=1 - alpha)
    variance = v.addcmul(mean, mean, value=-1).clamp_(min=0)
    return g / variance.sqrt_().add_(eps), 1.0


def rmsprop_centered_momentum(
    g: Tensor,
    states: States,
    step: int,
    *,
    alpha: Decay,
    eps: NotNegative,
    momentum: NotNegative,
) -> Direction:
    """`rmsprop_centered` with the momentum of `rmsprop_momentum`."""
    v, mean, buf = states
    u, factor = rmsprop_centered(g, [v, mean], step, alpha=alpha, eps=eps)
    return buf.mul_(momentum).add_(u), factor


def adagrad(
    g: Tensor, states: States, step: int, *, lr_decay: NotNegative, eps: NotNegative
) -> Direction:
    """Adagrad (Duchi et al., 2011), as in torch.optim.Adagrad.

    sum ← sum + g²; u = g / (sqrt(sum) + eps), f = 1 / (1 + (step − 1) lr_decay).
    """
    (total,) = states
    total.addcmul_(g, g)
    return g / total.sqrt().add_(eps), 1 / (1 + (step - 1) * lr_decay)


def lamb(
    g: Tensor,
    states: States,
    step: int,
    *,
    beta1: Decay,
    beta2: Decay,
    eps: NotNegative,
    bias_correction: Switch,
) -> Direction:
    """The direction of LAMB (You et al., arXiv 1904.00962): that of `adam`.

    Without bias_correction c1 = c2 = 1.
    """
    if bias_correction:
        return adam(g, states, step, beta1=beta1, beta2=beta2, eps=eps)
    m, v = states
    _update_moments(g, m, v, beta1, beta2)
    return m / v.sqrt().add_(eps), 1.0
