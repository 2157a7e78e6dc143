"""Signatures of the optimizers, as `inspect` and documentation show them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from typing import Any, get_type_hints

from kq_optim.options import DEFAULTS, Options


def spelled_out(init: Callable[..., None], fixed: Container[str]) -> inspect.Signature:
    """The signature of a constructor with `**options: Unpack[Options]` written as arguments.

    Args:
        init: the constructor.
        fixed: options that the class fixes and does not take.
    """
    _self, *own = inspect.signature(init).parameters.values()
    if not own or own[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return inspect.Signature(own)  # somebody's subclass with a constructor of its own
    kinds = get_type_hints(Options)
    common = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kinds[name]
        )
        for name, default in DEFAULTS.items()
        if name not in fixed
    ]
    return inspect.Signature([*own[:-1], *common])


def check_names(cls: type, options: dict[str, Any], fixed: Container[str]) -> None:
    """Raises TypeError for a keyword argument that a class does not take."""
    for name in options:
        if name in fixed:
            raise TypeError(f"{cls.__name__} does not take {name}: its name says it")
        if name not in DEFAULTS:
            raise TypeError(f"{cls.__name__} got an unexpected keyword argument {name!r}")
