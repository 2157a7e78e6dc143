"""Cases of optimizer_step_8bit and optimizer_step_32bit."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from kq_conformance.cases.case import Case, Demand, Mode, Problem, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.optimizer_inputs import known_mean, step_8bit, step_32bit
from kq_conformance.cases.optimizer_problems import Step8bit
from kq_conformance.cases.optimizer_variants import Variant, variants
from kq_conformance.floats import FORMATS
from kq_conformance.reference import OPTIMIZER_BLOCKSIZE, RULES

__all__ = ["optimizer_cases", "usual_step_8bit"]

_MODES = (Mode.BEFORE, Mode.OFFSET, Mode.REPEAT, Mode.THREADS)
_ROUNDINGS = ("stochastic", "corrected")
# What is asked of each rounding with every rule, and with Adam.
_ROUNDED = ("plain", "largest")
_ROUNDED_ADAM = (
    *("plain", "first-step", "decoupled-decay", "coupled-decay", "nonfinite", "zero-gradient"),
    *("huge-gradient", "large-lr", "small-lr", "empty-list", "empty-tensor", "shapes", "large"),
)

_Maker = Callable[[Draw, str, Variant, str, str], Problem]
_OPS: dict[str, _Maker] = {"optimizer_step_8bit": step_8bit, "optimizer_step_32bit": step_32bit}


def usual_step_8bit(draw: Draw, size: int, dtype: str) -> Step8bit:
    """One tensor of some size, as in training."""
    variant = Variant({"weight_decay": 0.01, "decoupled": True}, (7,), ((size,),))
    return step_8bit(draw, "adam", variant, dtype)


def _case(
    op: str, rule: str, dtype: str, name: str, variant: Variant, *,
    mode: Mode = Mode.VALUES, rounding: str = "nearest",
) -> Case:  # fmt: skip
    blocksize = OPTIMIZER_BLOCKSIZE if op.endswith("8bit") else None
    demand = Demand(op, dtype, blocksize=blocksize, rule=rule, rounding=rounding)

    def make(draw: Draw) -> Problem:
        return _OPS[op](draw, rule, variant, dtype, rounding)

    place = f"{dtype}/{rounding}" if rounding != "nearest" else dtype
    return Case(f"{op}/{rule}/{place}/{name}", variant.profile, demand, make, mode)


def _nearest(op: str, rule: str, dtype: str) -> Iterator[Case]:
    """Every variant, and the plain one in every mode."""
    asked = dict(variants(rule))
    for name, variant in asked.items():
        smallest = variant.profile if dtype == "float32" else max(variant.profile, variant.types)
        # What QUICK asks in one type it asks in all.
        profile = variant.profile if variant.profile is Profile.QUICK else smallest
        yield _case(op, rule, dtype, name, replace(variant, profile=profile))
    for mode in _MODES:
        plain = replace(asked["plain"], profile=Profile.CORE)
        yield _case(op, rule, dtype, mode.value, plain, mode=mode)


def _rounded(op: str, rule: str) -> Iterator[Case]:
    """Parameters in bfloat16 that are not rounded to the nearest."""
    asked = dict(variants(rule))
    in_core = _ROUNDED_ADAM if rule == "adam" else _ROUNDED
    for rounding in _ROUNDINGS:
        for name, variant in asked.items():
            profile = Profile.CORE if name in in_core else Profile.FULL
            changed = replace(variant, profile=profile)
            yield _case(op, rule, "bfloat16", name, changed, rounding=rounding)
        for mode in _MODES if rule == "adam" else ():
            plain = replace(asked["plain"], profile=Profile.CORE)
            yield _case(op, rule, "bfloat16", mode.value, plain, mode=mode, rounding=rounding)


def _counted(rule: str) -> Case:
    """How many parameters are rounded up."""
    op, rounding = "optimizer_step_32bit", "stochastic"
    demand = Demand(op, "bfloat16", rule=rule, rounding=rounding)

    def make(draw: Draw) -> Problem:
        return known_mean(draw, rule)

    return Case(f"{op}/{rule}/bfloat16/{rounding}/mean", Profile.CORE, demand, make)


def optimizer_cases() -> Iterator[Case]:
    """All cases of the optimizer steps."""
    for op in _OPS:
        for name, rule in RULES.items():
            if not rule.signed and op.endswith("8bit"):
                continue  # a rule without states has none in 8 bits
            for dtype in FORMATS:
                yield from _nearest(op, name, dtype)
            yield from _rounded(op, name)
    for name in ("sgd", "lion"):
        yield _counted(name)
