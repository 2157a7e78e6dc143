"""Forward and backward of a frozen layer: the same for every contender, given its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import checks
from benchmarks.harness import Contender, Verdict, nothing
from benchmarks.work import Training

Layer = Callable[[Tensor], Tensor]


def contender(
    work: Training,
    family: str,
    layers: Iterator[Layer],
    traffic: int,
    *,
    path: str = "",
    prepare: Callable[[], object] = nothing,
    dtype: torch.dtype | None = None,
) -> Contender:
    """Layers that hold the weight of `work`.

    Args:
        work: the work.
        family: as in `Contender`.
        layers: copies of the layer, in turn.
        traffic: as in `Contender`.
        path: as in `Contender`.
        prepare: as in `Contender`.
        dtype: what the layers compute in, if it is not the dtype of the work.
    """
    linear = work.linear
    x = linear.x.detach().to(dtype or linear.x.dtype).requires_grad_()
    grad = work.grad.to(x.dtype)

    def run() -> tuple[Tensor, Tensor]:
        y = next(layers)(x)
        (grad_x,) = torch.autograd.grad(y, x, grad)
        return y, grad_x

    def check() -> Verdict:
        y, grad_x = run()
        return checks.linear_4bit_training(
            x, linear.packed, linear.state.absmax, y, grad, grad_x, linear.state.blocksize
        )

    return Contender(family, run, check, traffic, path=path, prepare=prepare)
