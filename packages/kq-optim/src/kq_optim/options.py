"""Checks of option values, wherever they come from: constructor, group, override, checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from kq_optim.placement import PLACEMENTS

STORAGE_OPTIONS = ("state", "min_8bit_size", "placement")
"""How and where state is kept; fixed once a parameter has state, and not taken from checkpoints."""

STATES = ("32bit", "8bit")


def check_option(name: str, value: object) -> None:
    """Raises TypeError or ValueError, naming the option, its value and what is accepted."""
    _CHECKS[name](name, value)


def _not_negative(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def _learning_rate(name: str, value: object) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} must be a number or a floating-point tensor of one element, "
                f"got a {value.dtype} tensor of shape {list(value.shape)}"
            )
        value = float(value)
    _not_negative(name, value)


def _betas(name: str, value: object) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {value!r}")
    for beta in value:
        _not_negative(name, beta)
        if beta >= 1:
            raise ValueError(f"{name} must be below 1, got {value!r}")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}")


def _size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def _one_of(accepted: tuple[str, ...]) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if value not in accepted:
            raise ValueError(f"{name} must be one of {accepted}, got {value!r}")

    return check


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "lr": _learning_rate,
    "betas": _betas,
    "eps": _not_negative,
    "weight_decay": _not_negative,
    "maximize": _flag,
    "state": _one_of(STATES),
    "min_8bit_size": _size,
    "placement": _one_of(tuple(PLACEMENTS)),
}
