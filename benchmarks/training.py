"""Forward and backward of a frozen layer: the same for every contender, given its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness import Contender, Verdict, nothing

Layer = Callable[[Tensor], Tensor]
Judge = Callable[[Tensor, Tensor, Tensor, Tensor], Verdict]
"""Of x, y, the gradient of y and the gradient of x."""


def contender(
    x: Tensor,
    grad: Tensor,
    family: str,
    layers: Iterator[Layer],
    judge: Judge,
    traffic: int,
    *,
    path: str = "",
    prepare: Callable[[], object] = nothing,
) -> Contender:
    """Layers that hold the weight of some work.

    Args:
        x: their input, in the dtype that they compute in.
        grad: gradient of their output, in any dtype.
        family: as in `Contender`.
        layers: copies of the layer, in turn.
        judge: whether the results are right.
        traffic: as in `Contender`.
        path: as in `Contender`.
        prepare: as in `Contender`.
    """
    x = x.detach().requires_grad_()
    grad = grad.to(x.dtype)

    def run() -> tuple[Tensor, Tensor]:
        y = next(layers)(x)
        (grad_x,) = torch.autograd.grad(y, x, grad)
        return y, grad_x

    def check() -> Verdict:
        y, grad_x = run()
        return judge(x, y, grad, grad_x)

    return Contender(family, run, check, traffic, path=path, prepare=prepare)
