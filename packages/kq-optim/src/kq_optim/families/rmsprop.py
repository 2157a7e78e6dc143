"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, below_one, flag, learning_rate, number
from kq_optim.rules import Update


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012), as `torch.optim.RMSprop`.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        alpha: decay rate of the second moment, in [0, 1).
        eps: added to the denominator.
        weight_decay: the gradient becomes g + weight_decay * p.
        momentum: decay rate of a momentum of the normalized gradient: one state more if not 0.
        centered: divide by the standard deviation instead (Graves, 2013): one state more.
        decoupled: shrink the parameter instead: p *= 1 - lr * weight_decay.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {
        "lr": learning_rate,
        "alpha": below_one,
        "eps": number,
        "weight_decay": number,
        "momentum": below_one,
        "centered": flag,
        "decoupled": flag,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        decoupled: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "decoupled": decoupled,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        name = "rmsprop"
        hyper = {"alpha": options["alpha"], "eps": options["eps"]}
        if options["centered"]:
            name += "_centered"
        if options["momentum"]:
            name += "_momentum"
            hyper["momentum"] = options["momentum"]
        return Update(name, hyper, options["decoupled"])


class RMSprop8bit(RMSprop, state="8bit"):
    """`RMSprop` with 8-bit state."""


class RMSprop32bit(RMSprop, state="32bit"):
    """`RMSprop` with 32-bit state."""


class PagedRMSprop(RMSprop, placement="paged"):
    """`RMSprop` with paged state."""


class PagedRMSprop8bit(RMSprop, state="8bit", placement="paged"):
    """`RMSprop` with paged 8-bit state."""


class PagedRMSprop32bit(RMSprop, state="32bit", placement="paged"):
    """`RMSprop` with paged 32-bit state."""
