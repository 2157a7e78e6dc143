"""Parameters in their groups: names for messages, options, and what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kq_functional.formats import FLOAT_DTYPES

Group = Mapping[str, Any]


def describe_param(group: Group, index: int) -> str:
    """Names a parameter in messages."""
    shape = list(group["params"][index].shape)
    if "param_names" in group:
        return f"parameter {group['param_names'][index]!r} of shape {shape}"
    return f"parameter {index} of its group, of shape {shape},"


def options_of(group: Group, index: int) -> Group:
    """The options of one parameter: those of its group, and its overrides."""
    overrides = group.get("overrides", {}).get(index)
    return {**group, **overrides} if overrides else group


def check_parameter(group: Group, index: int) -> None:
    """Raises TypeError for a parameter that cannot be trained."""
    param = group["params"][index]
    if hasattr(param, "device_mesh"):
        raise TypeError(f"{describe_param(group, index)} is a DTensor, which is not supported")
    if param.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{describe_param(group, index)} is {param.dtype}; "
            "this optimizer accepts float32, bfloat16 and float16"
        )


def check_gradient(group: Group, index: int) -> None:
    """Raises TypeError for a gradient, or its parameter, that cannot be used."""
    check_parameter(group, index)
    param = group["params"][index]
    grad = param.grad
    if grad.layout != torch.strided or grad.dtype != param.dtype:
        raise TypeError(
            f"gradient of {describe_param(group, index)} is {grad.dtype}, {grad.layout}; "
            f"this optimizer accepts {param.dtype}, torch.strided"
        )
