"""Update rules of the optimizers: pure arithmetic on float32 tensors."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor


class Rule(Protocol):
    """Update `p` and its two states in place; all tensors are float32 and of one shape."""

    def __call__(
        self,
        p: Tensor,
        g: Tensor,
        state1: Tensor,
        state2: Tensor,
        step: int,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
    ) -> None:
        """Take step number `step`, counted from 1."""


def adam(
    p: Tensor,
    g: Tensor,
    state1: Tensor,
    state2: Tensor,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Take one step of Adam (Kingma & Ba, 2015) or AdamW (Loshchilov & Hutter, 2019).

    With m = state1, v = state2, c1 = 1 − beta1^step, c2 = sqrt(1 − beta2^step):
    g ← −g if maximize; p ← p (1 − lr weight_decay) if decoupled, else g ← g + weight_decay p;
    m ← beta1 m + (1 − beta1) g; v ← beta2 v + (1 − beta2) g²;
    p ← p − (lr c2 / c1) m / (sqrt(v) + eps c2),
    which is lr (m / c1) / (sqrt(v) / c2 + eps) with the corrections folded into two factors. The
    factors are computed in double and rounded to float32.
    """
    correction1 = 1 - beta1**step
    correction2 = math.sqrt(1 - beta2**step)
    if maximize:
        g = g.neg()
    if decoupled:
        p.mul_(1 - lr * weight_decay)
    else:
        g = g.add(p, alpha=weight_decay)
    state1.mul_(beta1).add_(g, alpha=1 - beta1)
    state2.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    divisor = state2.sqrt().add_(eps * correction2)
    p.addcdiv_(state1, divisor, value=-lr * correction2 / correction1)


RULES: dict[str, Rule] = {"adam": adam}
"""Every rule by name; each has two states."""


def check_rule(rule: object) -> None:
    """Raise ValueError unless `rule` is a known update rule."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
