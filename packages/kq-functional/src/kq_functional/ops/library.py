"""The one library object, which must stay alive for the ops to exist, and a way to add to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("kq", "DEF")


def register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an op by its schema and return it.

    Args:
        schema: "name(arguments) -> results", with an overload name after a dot if needed.
        kernel: Computes on real tensors of any device.
        fake: Checks the arguments and allocates the results, for tracing.
    """
    _LIBRARY.define(schema)
    name = schema.partition("(")[0]
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"kq::{name}", fake, lib=_LIBRARY)
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.kq, packet), overload or "default")
