"""What the linear layers ask of their operands before an op is called."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.amp import is_autocast_available

from .formats import FLOAT_DTYPES


def autocast(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Cast operands as autocast asks, if it is enabled for the device of x."""
    device_type = x.device.type
    if is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        # What is no operand at all is left as it is, to be refused.
        x = x.to(dtype) if x.dtype in FLOAT_DTYPES else x
        bias = bias.to(dtype) if bias is not None and bias.dtype in FLOAT_DTYPES else bias
    return x, bias


def needs_grad(x: Tensor, bias: Tensor | None) -> bool:
    """Whether there is an operand to differentiate by, where gradients are enabled."""
    return x.requires_grad or (bias is not None and bias.requires_grad)


def is_differentiable(x: Tensor, bias: Tensor | None) -> bool:
    """Whether a call needs the op with autograd, which costs more."""
    # A traced graph always gets the differentiable op: tracing hides the difference in cost.
    return (torch.is_grad_enabled() and needs_grad(x, bias)) or torch.compiler.is_compiling()
