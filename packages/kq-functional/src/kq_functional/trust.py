"""Trust ratios: factors of a step that compare norms over the whole parameter.

Norms come as float64; a norm that is NaN or infinite gives what IEEE arithmetic gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from .update_rules import NotNegative, Range

Positive = Annotated[float, Range("above 0 and below 2^127", math.ulp(0.0))]


@dataclass(frozen=True)
class Trust:
    """How a rule scales its step by two norms over a parameter.

    Attributes:
        ratio: Computes the factor from the norm of the parameter before the step, the other norm,
            the weight decay and the hyperparameters.
        of_gradient: The other norm is that of the gradient, before decay, and the factor scales
            the gradient after decay, instead of norm and scale of the direction.
        decays_direction: Decoupled weight decay is added to the direction, which the norm sees,
            instead of shrinking the parameter.
        hyper: The hyperparameters that `ratio` reads, and what is accepted.
    """

    ratio: Callable[[float, float, float, Mapping[str, float]], float]
    of_gradient: bool = False
    decays_direction: bool = False
    hyper: Mapping[str, Any] = field(default_factory=dict)


def _divide(a: float, b: float) -> float:
    """Return a / b for a that is not 0, as IEEE has it."""
    return a / b if b else math.copysign(math.inf, a)


def _lamb(p: float, u: float, weight_decay: float, hyper: Mapping[str, float]) -> float:
    return p / u if p and u else 1.0


def _lars(p: float, g: float, weight_decay: float, hyper: Mapping[str, float]) -> float:
    if not (p and g):
        return 1.0
    return _divide(hyper["trust_coefficient"] * p, g + weight_decay * p + hyper["eps"])


def _clip(p: float, u: float, weight_decay: float, hyper: Mapping[str, float]) -> float:
    if not u:
        return 1.0
    ratio = hyper["max_unorm"] * p / u
    return 1.0 if ratio > 1 else ratio  # NaN stays


LAMB = Trust(_lamb, decays_direction=True)
"""‖p‖ / ‖u‖, 1 if either is 0 (You et al., arXiv 1904.00962, with φ the identity)."""

LARS = Trust(_lars, of_gradient=True, hyper={"eps": NotNegative, "trust_coefficient": NotNegative})
"""trust_coefficient ‖p‖ / (‖g‖ + weight_decay ‖p‖ + eps), 1 if a norm is 0 (arXiv 1708.03888)."""

CLIP = Trust(_clip, hyper={"max_unorm": Positive})
"""min(1, max_unorm ‖p‖ / ‖u‖), 1 if ‖u‖ is 0: the limit on a step that bitsandbytes has."""
