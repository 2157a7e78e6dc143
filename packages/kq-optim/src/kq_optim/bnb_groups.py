"""Hyperparameters as bitsandbytes keeps them in its groups, and what it can express."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kq_optim.families.adagrad import Adagrad
from kq_optim.families.adam import Adam, AdamW
from kq_optim.families.ademamix import AdEMAMix
from kq_optim.families.lamb import LAMB
from kq_optim.families.lars import LARS
from kq_optim.families.lion import Lion
from kq_optim.families.rmsprop import RMSprop
from kq_optim.families.sgd import SGD
from kq_optim.optimizer import Optimizer
from kq_optim.rules import Update

Group = Mapping[str, Any]

_BLANK = {
    "lr": 0.0,
    "betas": (0.0, 0.0),
    "eps": 0.0,
    "weight_decay": 0.0,
    "alpha": 0.0,
    "t_alpha": None,
    "t_beta3": None,
}
"""A group of bitsandbytes, whatever the family."""


class Dialect(NamedTuple):
    """How bitsandbytes expresses a family.

    Attributes:
        rule: the one rule whose training it continues.
        same: hyperparameters with the same name and meaning.
        first_beta: the option that it keeps as the first of `betas`, if any.
        only: options that have only this value there.
    """

    rule: str
    same: tuple[str, ...]
    first_beta: str | None
    only: Mapping[str, Any]


def dialect_of(optimizer: Optimizer) -> Dialect:
    """The dialect of an optimizer's family."""
    for family, dialect in _DIALECTS.items():
        if isinstance(optimizer, family):
            return dialect
    raise TypeError(f"bitsandbytes has no optimizer like {type(optimizer).__name__}")


def read_group(saved: Group, dialect: Dialect) -> dict[str, Any]:
    """Options from a group of bitsandbytes; those that it does not keep are left out.

    Raises:
        ValueError: for a group that lacks some.
    """
    missing = [name for name in ("params", "betas", *dialect.same) if name not in saved]
    if missing:
        raise ValueError(f"the group lacks {', '.join(missing)}")
    options = {name: saved[name] for name in dialect.same}
    if dialect.first_beta:
        options[dialect.first_beta] = saved["betas"][0]
    return options


def write_group(options: Group, dialect: Dialect) -> dict[str, Any]:
    """A group of bitsandbytes, without parameters."""
    group = _BLANK | {name: options[name] for name in dialect.same}
    if dialect.first_beta:
        group["betas"] = (options[dialect.first_beta], 0.0)
    return group | {"lr": float(options["lr"])}


def check_decay(options: Group, dialect: Dialect) -> None:
    """Raises ValueError if weight decay would change its meaning."""
    ours = options.get("decoupled", dialect.only["decoupled"])
    if options["weight_decay"] and ours != dialect.only["decoupled"]:
        raise ValueError(
            f"weight_decay={options['weight_decay']} is decoupled={dialect.only['decoupled']} in "
            f"bitsandbytes, but decoupled={ours} here"
        )


def check_same_training(options: Group, update: Update, dialect: Dialect) -> None:
    """Raises ValueError for training that bitsandbytes would continue in another way."""
    if update.name != dialect.rule:
        raise ValueError(f"bitsandbytes has the rule {dialect.rule!r} here, not {update.name!r}")
    check_decay(options, dialect)
    for name, value in dialect.only.items():
        if name != "decoupled" and options[name] != value:
            raise ValueError(f"bitsandbytes has {name}={value!r} only, got {options[name]!r}")


_ONLY = {"maximize": False, "rounding": "nearest"}
_COUPLED = {**_ONLY, "decoupled": False}
_DECOUPLED = {**_ONLY, "decoupled": True}
_PLAIN = {**_COUPLED, "dampening": 0.0, "nesterov": False}  # it takes both and ignores them
_ADAM = ("lr", "betas", "eps", "weight_decay")

_DIALECTS: Mapping[type[Optimizer], Dialect] = {
    Adam: Dialect("adam", _ADAM, None, _DECOUPLED),
    AdamW: Dialect("adam", _ADAM, None, _DECOUPLED),
    AdEMAMix: Dialect("ademamix", (*_ADAM, "alpha", "t_alpha", "t_beta3"), None, _DECOUPLED),
    Lion: Dialect("lion", ("lr", "betas", "weight_decay"), None, _DECOUPLED),
    SGD: Dialect("momentum", ("lr", "weight_decay"), "momentum", _PLAIN),
    RMSprop: Dialect("rmsprop", ("lr", "eps", "weight_decay"), "alpha", _COUPLED),
    Adagrad: Dialect("adagrad", ("lr", "eps", "weight_decay"), None, {**_COUPLED, "lr_decay": 0.0}),
    LAMB: Dialect("lamb_clipped", _ADAM, None, {**_DECOUPLED, "adam_w_mode": True}),
    LARS: Dialect("lars_clipped", ("lr", "weight_decay"), "momentum", _PLAIN),
}
