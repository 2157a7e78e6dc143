"""Update rules: what an optimizer does, apart from how and where its state is kept.

The arithmetic is in kq_functional, once per backend. A rule here says what state it needs and which
options it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """An update rule.

    Attributes:
        name: its name in kq_functional.
        id: its number in checkpoints; never reused.
        signed: for each state tensor, whether its values can be negative.
        options: the hyperparameters it has, all of them keys of a parameter group.
        arguments: translates those that are the rule's own into arguments of kq_functional.
    """

    name: str
    id: int
    signed: tuple[bool, ...]
    options: tuple[str, ...]
    arguments: Callable[[Mapping[str, Any]], dict[str, float]]


def _adam_arguments(options: Mapping[str, Any]) -> dict[str, float]:
    beta1, beta2 = options["betas"]
    return {"beta1": beta1, "beta2": beta2, "eps": options["eps"]}


ADAM = Rule(
    name="adam",
    id=1,
    signed=(True, False),
    options=("lr", "betas", "eps", "weight_decay", "maximize"),
    arguments=_adam_arguments,
)
"""Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1."""
