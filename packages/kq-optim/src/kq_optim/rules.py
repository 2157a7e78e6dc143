"""Update rules as the optimizers use them; the arithmetic is in kq_functional, once per backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kq_functional import RULES, Rule

RULE_IDS: Mapping[str, int] = {
    "adam": 1,
    "sgd": 2,
    "momentum": 3,
    "amsgrad": 4,
    "ademamix": 5,
    "lion": 6,
    "rmsprop": 7,
    "rmsprop_momentum": 8,
    "rmsprop_centered": 9,
    "rmsprop_centered_momentum": 10,
    "adagrad": 11,
    "lamb": 12,
    "lamb_clipped": 13,
    "lars": 14,
    "lars_clipped": 15,
}
"""Numbers of the rules in checkpoints; never reused."""


class Update(NamedTuple):
    """What one step of a parameter does: a rule of kq_functional with its hyperparameters.

    Attributes:
        name: the rule's name in `kq_functional.RULES`.
        hyper: the rule's own hyperparameters.
        decoupled: whether weight decay shrinks the parameter (AdamW) or is added to the gradient.
        first: the value of every element of state before the first step.
    """

    name: str
    hyper: Mapping[str, float]
    decoupled: bool = False
    first: float = 0.0

    @property
    def rule(self) -> Rule:
        """The rule's description: which states it has."""
        return RULES[self.name]


def momentum_arguments(options: Mapping[str, Any]) -> dict[str, float]:
    """Hyperparameters of the rules with a momentum as `torch.optim.SGD` has it.

    Raises:
        ValueError: for nesterov without momentum, or with dampening.
    """
    if options["nesterov"] and (not options["momentum"] or options["dampening"]):
        raise ValueError(
            "nesterov=True needs momentum above 0 and dampening=0, "
            f"got momentum={options['momentum']} and dampening={options['dampening']}"
        )
    return {
        "momentum": options["momentum"],
        "dampening": options["dampening"],
        "nesterov": float(options["nesterov"]),
    }
