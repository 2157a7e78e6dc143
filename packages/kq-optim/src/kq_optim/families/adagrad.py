"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, flag, learning_rate, number
from kq_optim.rules import Update


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., 2011), as `torch.optim.Adagrad`.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        lr_decay: step t has the learning rate lr / (1 + (t - 1) * lr_decay).
        weight_decay: the gradient becomes g + weight_decay * p.
        initial_accumulator_value: what the sums of squares start from.
        eps: added to the denominator.
        decoupled: shrink the parameter instead: p *= 1 - lr * weight_decay.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {
        "lr": learning_rate,
        "lr_decay": number,
        "weight_decay": number,
        "initial_accumulator_value": number,
        "eps": number,
        "decoupled": flag,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        decoupled: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "decoupled": decoupled,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        return Update(
            "adagrad",
            {"lr_decay": options["lr_decay"], "eps": options["eps"]},
            options["decoupled"],
            first=options["initial_accumulator_value"],
        )


class Adagrad8bit(Adagrad, state="8bit"):
    """`Adagrad` with 8-bit state."""


class Adagrad32bit(Adagrad, state="32bit"):
    """`Adagrad` with 32-bit state."""


class PagedAdagrad(Adagrad, placement="paged"):
    """`Adagrad` with paged state."""


class PagedAdagrad8bit(Adagrad, state="8bit", placement="paged"):
    """`Adagrad` with paged 8-bit state."""


class PagedAdagrad32bit(Adagrad, state="32bit", placement="paged"):
    """`Adagrad` with paged 32-bit state."""
