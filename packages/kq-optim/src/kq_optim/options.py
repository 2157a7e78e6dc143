"""Checks of option values, wherever they come from: constructor, group, override, checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypedDict

from torch import Tensor

Check = Callable[[str, Any], None]
"""Raises TypeError or ValueError, naming the option, its value and what is accepted."""

State = Literal["32bit", "8bit"]
PlacementName = Literal["resident", "paged"]
Rounding = Literal["nearest", "stochastic", "corrected"]


class Options(TypedDict, total=False):
    """Keyword-only arguments that every optimizer takes; see `Optimizer`."""

    maximize: bool
    state: State
    min_8bit_size: int
    placement: PlacementName
    paged_directory: str | os.PathLike[str] | None
    rounding: Rounding


DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "maximize": False,
        "state": "32bit",
        "min_8bit_size": 4096,
        "placement": "resident",
        "paged_directory": None,
        "rounding": "nearest",
    }
)
"""Values of `Options` that are not given."""

STORAGE_OPTIONS = ("state", "min_8bit_size", "placement", "paged_directory", "rounding")
"""How and where state is kept; fixed once a parameter has state, and not taken from checkpoints."""


def number(name: str, value: object) -> None:
    """A finite number, not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def below_one(name: str, value: object) -> None:
    """A number in [0, 1), as rates of decay are."""
    number(name, value)
    if value >= 1:  # type: ignore[operator]
        raise ValueError(f"{name} must be below 1, got {value!r}")


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""

    def check_optional(name: str, value: object) -> None:
        if value is not None:
            check(name, value)

    return check_optional


def learning_rate(name: str, value: object) -> None:
    """A number, or a floating-point tensor of one element."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} must be a number or a floating-point tensor of one element, "
                f"got a {value.dtype} tensor of shape {list(value.shape)}"
            )
        value = float(value)
    number(name, value)


def decay_rates(count: int) -> Check:
    """A tuple or list of `count` numbers in [0, 1)."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, (tuple, list)) or len(value) != count:
            raise TypeError(f"{name} must be {count} numbers, got {value!r}")
        for rate in value:
            number(name, rate)
            if rate >= 1:
                raise ValueError(f"{name} must be below 1, got {value!r}")

    return check


def flag(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}")


def count(name: str, value: object) -> None:
    """An int, not negative."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def _one_of(*accepted: str) -> Check:
    def check(name: str, value: object) -> None:
        if value not in accepted:
            raise ValueError(f"{name} must be one of {accepted}, got {value!r}")

    return check


def _directory(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path or None, got {value!r}")
    if not os.path.isdir(value):
        raise ValueError(f"{name} must be a directory that exists, got {os.fspath(value)!r}")


COMMON_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "maximize": flag,
        "state": _one_of("32bit", "8bit"),
        "min_8bit_size": count,
        "placement": _one_of("resident", "paged"),
        "paged_directory": _directory,
        "rounding": _one_of("nearest", "stochastic", "corrected"),
    }
)
"""Checks of `Options`, by name."""
