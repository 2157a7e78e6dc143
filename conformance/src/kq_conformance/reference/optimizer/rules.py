"""The table of update rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kq_conformance.floats import Float64
from kq_conformance.reference.optimizer import adaptive, momentum, squares
from kq_conformance.reference.optimizer.hyper import Hyper
from kq_conformance.reference.optimizer.states import States

__all__ = ["RULES", "OptimizerRule", "optimizer_step"]

_Update = Callable[[Float64, Float64, States, int, Hyper], tuple[Float64, States]]


@dataclass(frozen=True)
class OptimizerRule:
    """An update rule.

    Attributes:
        name: what backends call it.
        update: parameter, gradient, states, number of the step (from 1) and hyperparameters to the
            new parameter and states, unrounded.
        signed: for each state whether it has both signs: which 8-bit map it takes.
        usual: the rule's own hyperparameters, in the order of the contract, with usual values.
        norm: whether the update depends on norms over the whole parameter.
        decouples: whether the decay may be decoupled.
    """

    name: str
    update: _Update
    signed: tuple[bool, ...]
    usual: Mapping[str, float]
    norm: bool = False
    decouples: bool = True

    def hyper(self, **changes: Any) -> Hyper:
        """The usual hyperparameters with some changed, common ones or the rule's own.

        Raises:
            TypeError: if a name is neither.
        """
        own = {name: float(changes.pop(name, value)) for name, value in self.usual.items()}
        return replace(Hyper(own=own), **changes)


_MOMENTUM = {"momentum": 0.9, "dampening": 0.0, "nesterov": 0.0}
_BETAS = {"beta1": 0.9, "beta2": 0.999}
_ADAM = _BETAS | {"eps": 1e-8}
_RMSPROP = {"alpha": 0.99, "eps": 1e-8}
_PUSHED = _RMSPROP | {"momentum": 0.9}

RULES: dict[str, OptimizerRule] = {
    rule.name: rule
    for rule in (
        OptimizerRule("sgd", momentum.sgd, (), {}),
        OptimizerRule("momentum", momentum.momentum, (True,), _MOMENTUM),
        OptimizerRule("adam", adaptive.adam, (True, False), _ADAM),
        OptimizerRule("amsgrad", adaptive.amsgrad, (True, False, False), _ADAM),
        OptimizerRule(
            "ademamix",
            adaptive.ademamix,
            (True, True, False),
            _BETAS | {"beta3": 0.9999, "alpha": 5.0, "eps": 1e-8, "t_alpha": 0.0, "t_beta3": 0.0},
        ),
        OptimizerRule("lion", momentum.lion, (True,), {"beta1": 0.9, "beta2": 0.99}),
        OptimizerRule("rmsprop", squares.rmsprop, (False,), _RMSPROP),
        OptimizerRule("rmsprop_momentum", squares.rmsprop_momentum, (False, True), _PUSHED),
        OptimizerRule("rmsprop_centered", squares.rmsprop, (False, True), _RMSPROP),
        OptimizerRule(
            "rmsprop_centered_momentum",
            squares.rmsprop_momentum,
            (False, True, True),
            _PUSHED,
        ),
        OptimizerRule("adagrad", squares.adagrad, (False,), {"lr_decay": 0.0, "eps": 1e-10}),
        OptimizerRule(
            "lamb", adaptive.lamb, (True, False), _ADAM | {"bias_correction": 1.0}, norm=True
        ),
        OptimizerRule(
            "lamb_clipped", adaptive.lamb_clipped, (True, False), _ADAM | {"max_unorm": 1.0},
            norm=True,
        ),
        OptimizerRule(
            "lars", momentum.lars, (True,), _MOMENTUM | {"eps": 1e-8, "trust_coefficient": 1e-3},
            norm=True, decouples=False,
        ),
        OptimizerRule(
            "lars_clipped", momentum.lars_clipped, (True,), _MOMENTUM | {"max_unorm": 0.02},
            norm=True, decouples=False,
        ),
    )
}  # fmt: skip


def optimizer_step(
    rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """One step of a rule.

    Args:
        rule: a name in `RULES`.
        p: float64 [n], parameter.
        g: float64 [n], gradient.
        states: float64 [n] each, in the order of the rule.
        step: t, the number of the step being taken, from 1.
        hyper: hyperparameters.

    Returns:
        The new p and states, unrounded; states beyond the largest float32 are infinite.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return RULES[rule].update(p, g, states, step, hyper)
