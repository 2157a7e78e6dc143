"""The update rules by name: their functions, the signs of their states, the norms they need."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import get_type_hints

import torch

from . import update_rules
from .formats import dtype_name
from .trust import CLIP, LAMB, LARS, Trust
from .update_rules import Direction, Range


@dataclass(frozen=True)
class Rule:
    """An update rule; the formulas are documented in `kq_functional.update_rules`.

    Before the rule the gradient is divided by grad_scale and, if maximize, negated; then weight
    decay λ is added to it (g + λp), or, if decoupled, the parameter shrinks by 1 − lr λ. λ = 0
    leaves both alone. All arithmetic is in float32.

    Attributes:
        name: Its name.
        signed: For each of its states, in order, whether its values can be negative.
        update: The function.
        trust: The factor of its step that depends on norms over the whole parameter, if any.
        decouples: Whether decoupled weight decay is defined for it.
    """

    name: str
    signed: tuple[bool, ...]
    update: Callable[..., Direction] = field(repr=False)
    trust: Trust | None = field(default=None, repr=False)
    decouples: bool = True

    @property
    def norm(self) -> bool:
        """Whether it needs norms over the whole parameter."""
        return self.trust is not None

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """What is accepted for each hyperparameter: that of the update, then of the trust ratio."""
        kinds = get_type_hints(self.update, include_extras=True)
        arguments = inspect.signature(self.update).parameters.values()
        own = {a.name: kinds[a.name] for a in arguments if a.kind is a.KEYWORD_ONLY}
        if self.trust is not None:
            own.update(self.trust.hyper)
        return MappingProxyType({name: kind.__metadata__[0] for name, kind in own.items()})

    @cached_property
    def hyper(self) -> tuple[str, ...]:
        """The names of its hyperparameters, in the order that the registered ops take them."""
        return tuple(self.ranges)

    def of_update(self, hyper: Mapping[str, float]) -> dict[str, float]:
        """Return the hyperparameters that the function takes."""
        others = self.trust.hyper if self.trust is not None else ()
        return {name: value for name, value in hyper.items() if name not in others}


_SIGNED, _POSITIVE = True, False

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule("sgd", (), update_rules.sgd),
            Rule("momentum", (_SIGNED,), update_rules.momentum),
            Rule("adam", (_SIGNED, _POSITIVE), update_rules.adam),
            Rule("amsgrad", (_SIGNED, _POSITIVE, _POSITIVE), update_rules.amsgrad),
            Rule("ademamix", (_SIGNED, _SIGNED, _POSITIVE), update_rules.ademamix),
            Rule("lion", (_SIGNED,), update_rules.lion),
            Rule("rmsprop", (_POSITIVE,), update_rules.rmsprop),
            Rule("rmsprop_momentum", (_POSITIVE, _SIGNED), update_rules.rmsprop_momentum),
            Rule("rmsprop_centered", (_POSITIVE, _SIGNED), update_rules.rmsprop_centered),
            Rule(
                "rmsprop_centered_momentum",
                (_POSITIVE, _SIGNED, _SIGNED),
                update_rules.rmsprop_centered_momentum,
            ),
            Rule("adagrad", (_POSITIVE,), update_rules.adagrad),
            Rule("lamb", (_SIGNED, _POSITIVE), update_rules.lamb, LAMB),
            Rule("lamb_clipped", (_SIGNED, _POSITIVE), update_rules.adam, CLIP),
            Rule("lars", (_SIGNED,), update_rules.momentum, LARS, False),
            Rule("lars_clipped", (_SIGNED,), update_rules.momentum, CLIP, False),
        )
    }
)
"""Every rule by name."""

ROUNDINGS = ("nearest", "stochastic", "corrected")
"""How a new parameter, known in float32, is stored; see `optimizer_step_32bit`."""


def check_rule(rule: object, *, coded: bool = False) -> None:
    """Raise ValueError unless `rule` is a known update rule, with states if these are coded."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if coded and not RULES[str(rule)].signed:
        raise ValueError(f"rule must have states to be kept in 8 bits, got {rule!r}")


def check_rounding(rounding: object, dtype: torch.dtype = torch.bfloat16) -> None:
    """Raise ValueError unless parameters of this dtype can be rounded so; bfloat16 can any way."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if rounding != "nearest" and dtype != torch.bfloat16:
        raise ValueError(
            f"rounding must be 'nearest' for params of {dtype_name(dtype)}, got {rounding!r}: "
            "the others are for bfloat16"
        )
