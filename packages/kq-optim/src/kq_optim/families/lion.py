"""Lion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, decay_rates, flag, learning_rate, number
from kq_optim.rules import Update


class Lion(Optimizer):
    """Lion (Chen et al., 2023, arXiv 2302.06675): steps of one size, along the sign of a momentum.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        betas: weight of the momentum in the step, and its decay rate.
        weight_decay: before the step, p *= 1 - lr * weight_decay.
        decoupled: if False, the gradient becomes g + weight_decay * p instead.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {
        "lr": learning_rate,
        "betas": decay_rates(2),
        "weight_decay": number,
        "decoupled": flag,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        decoupled: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "decoupled": decoupled}
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        beta1, beta2 = options["betas"]
        return Update("lion", {"beta1": beta1, "beta2": beta2}, options["decoupled"])


class Lion8bit(Lion, state="8bit"):
    """`Lion` with 8-bit state."""


class Lion32bit(Lion, state="32bit"):
    """`Lion` with 32-bit state."""


class PagedLion(Lion, placement="paged"):
    """`Lion` with paged state."""


class PagedLion8bit(Lion, state="8bit", placement="paged"):
    """`Lion` with paged 8-bit state."""


class PagedLion32bit(Lion, state="32bit", placement="paged"):
    """`Lion` with paged 32-bit state."""
