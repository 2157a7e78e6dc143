"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, below_one, flag, learning_rate, number
from kq_optim.rules import Update, momentum_arguments


class SGD(Optimizer):
    """Stochastic gradient descent, with or without momentum, as `torch.optim.SGD`.

    Without momentum there is no state, and `state` has no effect.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        momentum: decay rate of the momentum, in [0, 1).
        dampening: each gradient but the first counts 1 - dampening in the momentum.
        weight_decay: the gradient becomes g + weight_decay * p.
        nesterov: step along g + momentum * buffer; needs momentum, and dampening=0.
        decoupled: shrink the parameter instead: p *= 1 - lr * weight_decay.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {
        "lr": learning_rate,
        "momentum": below_one,
        "dampening": number,
        "weight_decay": number,
        "nesterov": flag,
        "decoupled": flag,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decoupled: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "decoupled": decoupled,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        hyper = momentum_arguments(options)
        if not options["momentum"]:
            return Update("sgd", {}, options["decoupled"])
        return Update("momentum", hyper, options["decoupled"])


class SGD8bit(SGD, state="8bit"):
    """`SGD` with 8-bit state."""


class SGD32bit(SGD, state="32bit"):
    """`SGD` with 32-bit state."""


class PagedSGD(SGD, placement="paged"):
    """`SGD` with paged state."""


class PagedSGD8bit(SGD, state="8bit", placement="paged"):
    """`SGD` with paged 8-bit state."""


class PagedSGD32bit(SGD, state="32bit", placement="paged"):
    """`SGD` with paged 32-bit state."""
