"""Gradients of the public functions by autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["gradients_of"]


class _Meet(torch.autograd.Function):
    """A loss whose gradient in y is a given tensor, with the strides that it has."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return ctx.gradient, None


def gradients_of(y: Tensor, leaves: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a loss in `leaves`, from its gradient in y.

    torch.autograd.grad(y, leaves, gradient) gives the same, but loads torch's symbolic shapes,
    which takes seconds. All is computed in the calling thread, where the backend is pinned.
    """
    with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
        loss: Tensor = _Meet.apply(y, gradient)  # type: ignore[no-untyped-call]
        return torch.autograd.grad(loss, tuple(leaves))
