"""Hyperparameters, and what all rules do with the gradient and the decay before their own lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kq_conformance.floats import Float64

__all__ = ["Hyper", "descended", "prepared"]


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters of one step.

    Attributes:
        lr: η, the learning rate.
        weight_decay: λ, the coefficient of the decay.
        decoupled: True: the parameter decays; False: the gradient grows by λp.
        maximize: ascend, the gradient changes its sign.
        grad_scale: the gradient is divided by it first.
        own: the rule's own hyperparameters by name, in the order of the rule.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False
    grad_scale: float = 1.0
    own: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def common(self) -> dict[str, float | bool]:
        """By name, what every rule takes."""
        return {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "decoupled": self.decoupled,
            "maximize": self.maximize,
            "grad_scale": self.grad_scale,
        }


def descended(g: Float64, hyper: Hyper) -> Float64:
    """The gradient without the scale of the loss, of what is to be minimized."""
    g = g / hyper.grad_scale
    return -g if hyper.maximize else g


def prepared(p: Float64, g: Float64, hyper: Hyper) -> tuple[Float64, Float64]:
    """Parameter and gradient with the decay applied to the one or the other."""
    g = descended(g, hyper)
    if hyper.decoupled:
        return p * (1 - hyper.lr * hyper.weight_decay), g
    # Without decay nothing is added: an infinite parameter would make 0 · ∞ of it.
    return p, g + hyper.weight_decay * p if hyper.weight_decay else g
