"""Settings of the optimizer cases: what every rule is asked, and what is each one's own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kq_conformance.cases.case import Profile
from kq_conformance.reference import RULES, Hyper

__all__ = ["Variant", "variants"]

# One element, a block less one, a block, one more, several blocks with a tail, nothing: one list.
_SHAPES: tuple[tuple[int, ...], ...] = ((1,), (255,), (256,), (257,), (1000,), (0,))


@dataclass(frozen=True)
class Variant:
    """One setting of the hyperparameters and of what is special about the inputs.

    Attributes:
        changes: hyperparameters that are not the usual ones; the rule's own where it has them.
        steps: the number of the step of each tensor.
        shapes: of the tensors; a state kept in 8 bits lies in flat blocks, whatever the shape.
        kind: "": as in training; "fresh": states of a first step, zero; "nonfinite": NaN and Inf in
            gradients; "still": all gradients zero; "fresh-still": both; "denormal": gradients and
            states below the normal range, and gradients whose squares are; "huge": some gradients
            whose squares overflow; "no-parameter": every second parameter is zero throughout;
            "largest": parameters that step from the largest finite numbers to beyond.
        profile: the smallest profile that asks for it.
        types: the smallest profile that asks for it in other types than float32.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = (2, 7, 30, 100, 1000, 3)
    shapes: tuple[tuple[int, ...], ...] = _SHAPES
    kind: str = ""
    profile: Profile = Profile.CORE
    types: Profile = Profile.FULL

    def hyper(self, rule: str) -> Hyper:
        """The hyperparameters of a rule."""
        return RULES[rule].hyper(**self.changes)


_CORE, _FULL = Profile.CORE, Profile.FULL
_FIRST = (1,) * len(_SHAPES)
_MANY = 150  # tensors of a list: more than one launch of a multi-tensor kernel takes
_LONG = ((1 << 16) + 70,), (3,)  # more than 16 bits can count, and more than a chunk of a norm


def _setting(**changes: Any) -> Variant:
    return Variant(changes)


# What every rule is asked, with the parts that apply to it.
_COMMON = {
    "plain": replace(Variant(), types=_CORE),
    "first-step": Variant({"weight_decay": 0.01}, _FIRST, kind="fresh"),
    "decoupled-decay": _setting(lr=1e-2, weight_decay=0.1, decoupled=True),
    "coupled-decay": replace(_setting(lr=1e-2, weight_decay=0.1), types=_CORE),
    "maximize": _setting(weight_decay=0.01, maximize=True, decoupled=True),
    "maximize-coupled": replace(_setting(weight_decay=0.3, maximize=True), profile=_FULL),
    "grad-scale": _setting(grad_scale=3072.0, weight_decay=0.01, maximize=True),
    "nonfinite": Variant({"weight_decay": 0.01}, kind="nonfinite", types=_CORE),
    "zero-gradient": Variant(kind="still"),
    "zero-gradient-first": Variant({}, _FIRST, kind="fresh-still"),
    "denormal": Variant({"eps": 1e-30}, kind="denormal"),
    "lr-zero": replace(_setting(lr=0.0, weight_decay=0.1), profile=_FULL),
    "large-lr": replace(_setting(lr=10.0), profile=_FULL),
    "small-lr": replace(_setting(lr=1e-12, weight_decay=0.1), profile=_FULL),
    "late": Variant({"lr": 3e-5}, (100_000,) * len(_SHAPES), profile=_FULL),
    "empty-list": Variant({}, (), ()),
    "empty-tensor": Variant({}, (5,), ((0,),), profile=_FULL),
    "shapes": Variant(
        {}, (4, 5, 6, 7, 8), ((), (1, 1), (5, 103), (3, 4, 25), (2, 0, 3)), profile=_FULL
    ),
    "large": Variant({"weight_decay": 0.01}, (3, 20), _LONG, profile=_FULL),
    "many-tensors": Variant(
        {},
        tuple(range(1, _MANY + 1)),
        tuple((1 + 37 * i % 301,) for i in range(_MANY)),
        profile=_FULL,
    ),
}

# None of the usual numbers, for a rule's own hyperparameters: who has built one in shows.
_OTHER_NUMBERS = {
    "alpha": 0.9,
    "beta1": 0.8,
    "beta2": 0.95,
    "beta3": 0.99,
    "bias_correction": 0,
    "dampening": 0.3,
    "eps": 1e-4,
    "lr_decay": 0.01,
    "max_unorm": 1e-3,
    "momentum": 0.8,
    "nesterov": 1,
    "t_alpha": 50.0,
    "t_beta3": 500.0,
    "trust_coefficient": 0.02,
}

_TWO_MOMENTS = {
    "slow-moments": _setting(beta1=0.99, beta2=0.99999),
    "no-momentum": _setting(beta1=0.0),
    "no-memory": _setting(beta2=0.0),
    "large-eps": _setting(eps=1e-3),
    "no-eps": _setting(eps=0.0),
    "huge-gradient": Variant({"weight_decay": 0.01}, kind="huge"),
    "beyond-int32": Variant({}, (2**31 + 7,) * len(_SHAPES)),
}
_MOMENTUM = {
    "nesterov": _setting(nesterov=1, dampening=0.0, weight_decay=0.01),
    "dampening": _setting(dampening=0.5),
    "dampening-first": Variant({"dampening": 0.5}, _FIRST),
    "nesterov-first": Variant({"nesterov": 1, "dampening": 0.25}, _FIRST, profile=_FULL),
    "no-momentum": replace(_setting(momentum=0.0), profile=_FULL),
}
_SQUARES = {
    "large-eps": _setting(eps=1e-3),
    "no-memory": replace(_setting(alpha=0.0), profile=_FULL),
}
_PUSHED = {"no-momentum": replace(_setting(momentum=0.0), profile=_FULL)}
_NORMS = {
    "large": replace(_COMMON["large"], profile=_CORE),
    "many-tensors": replace(_COMMON["many-tensors"], profile=_CORE),
    "no-parameter": Variant({"weight_decay": 0.01}, kind="no-parameter"),
}
_LATER = {name: replace(each, profile=_FULL) for name, each in _TWO_MOMENTS.items()}
_BOUNDED = {
    "bounded": _setting(max_unorm=1e-3, weight_decay=0.01),
    "unbounded": replace(_setting(max_unorm=1e6), profile=_FULL),
}
_OWN: dict[str, dict[str, Variant]] = {
    "sgd": {"largest": Variant({"lr": 1.0}, kind="largest", types=_CORE)},
    "momentum": _MOMENTUM,
    "amsgrad": _LATER,
    "ademamix": _LATER
    | {
        # αₜ at its end for some tensors, β₃ₜ on its way for all but one.
        "warming-up": _setting(t_alpha=50.0, t_beta3=500.0),
        "no-slow-moment": replace(_setting(alpha=0.0), profile=_FULL),
    },
    "lion": {},
    "rmsprop": _SQUARES | {"huge-gradient": replace(_TWO_MOMENTS["huge-gradient"], profile=_FULL)},
    "rmsprop_momentum": _SQUARES | _PUSHED,
    "rmsprop_centered": _SQUARES,
    "rmsprop_centered_momentum": _SQUARES | _PUSHED,
    "adagrad": {
        "lr-decay": _setting(lr_decay=0.01),
        "large-eps": _setting(eps=1e-3),
    },
    "lamb": _LATER
    | _NORMS
    | {"uncorrected": _setting(bias_correction=0, weight_decay=0.01, decoupled=True)},
    "lamb_clipped": _LATER | _NORMS | _BOUNDED,
    "lars": _MOMENTUM
    | _NORMS
    | {
        "still-decay": Variant({"weight_decay": 0.1}, kind="still"),
        "large-eps": _setting(eps=1.0, trust_coefficient=0.02),
    },
    "lars_clipped": _MOMENTUM | _NORMS | _BOUNDED,
}


def _of_adam() -> dict[str, Variant]:
    """The rule that is in use longest is asked everything in every type."""
    late = replace(_COMMON["late"], changes={"lr": 3e-5, "beta2": 0.95})
    everything = _COMMON | _TWO_MOMENTS | {"late": late}
    asked = {
        name: replace(each, profile=_CORE, types=_FULL if name == "many-tensors" else _CORE)
        for name, each in everything.items()
    }
    quick = ("plain", "decoupled-decay")
    return asked | {name: replace(asked[name], profile=Profile.QUICK) for name in quick}


def variants(rule: str) -> Iterator[tuple[str, Variant]]:
    """The variants of a rule by name."""
    if rule == "adam":
        yield from _of_adam().items()
        return
    known = RULES[rule]
    others = {name: _OTHER_NUMBERS[name] for name in known.usual}
    own = _OWN[rule] | ({"other-numbers": Variant(others)} if others else {})
    for name, variant in (_COMMON | own).items():
        changes = dict(variant.changes)
        if changes.get("decoupled") and not known.decouples:
            if name == "decoupled-decay":
                continue
            del changes["decoupled"]
        if "eps" not in known.usual:
            changes.pop("eps", None)
        yield name, replace(variant, changes=changes)
