"""AdEMAMix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, count, decay_rates, flag, learning_rate, number, optional
from kq_optim.rules import Update


class AdEMAMix(Optimizer):
    """AdEMAMix (Pagliardini et al., 2024, arXiv 2409.03137): Adam with a second, slow momentum.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        betas: decay rates of the fast momentum, the second moment, the slow momentum.
        alpha: weight of the slow momentum.
        t_alpha: steps in which alpha grows from 0; None if it does not.
        t_beta3: steps in which the third rate grows from the first; None if it does not.
        eps: added to the denominator.
        weight_decay: before the step, p *= 1 - lr * weight_decay.
        decoupled: if False, the gradient becomes g + weight_decay * p instead.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {
        "lr": learning_rate,
        "betas": decay_rates(3),
        "alpha": number,
        "t_alpha": optional(count),
        "t_beta3": optional(count),
        "eps": number,
        "weight_decay": number,
        "decoupled": flag,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        t_alpha: int | None = None,
        t_beta3: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        decoupled: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "t_alpha": t_alpha,
            "t_beta3": t_beta3,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        beta1, beta2, beta3 = options["betas"]
        if options["t_beta3"] and not 0 < beta1 <= beta3:
            raise ValueError(
                "t_beta3 needs betas with 0 < betas[0] <= betas[2], from which the rate grows; "
                f"got betas={options['betas']}"
            )
        hyper = {
            "beta1": beta1,
            "beta2": beta2,
            "beta3": beta3,
            "alpha": options["alpha"],
            "eps": options["eps"],
            "t_alpha": options["t_alpha"] or 0,
            "t_beta3": options["t_beta3"] or 0,
        }
        return Update("ademamix", hyper, options["decoupled"])


class AdEMAMix8bit(AdEMAMix, state="8bit"):
    """`AdEMAMix` with 8-bit state."""


class AdEMAMix32bit(AdEMAMix, state="32bit"):
    """`AdEMAMix` with 32-bit state."""


class PagedAdEMAMix(AdEMAMix, placement="paged"):
    """`AdEMAMix` with paged state."""


class PagedAdEMAMix8bit(AdEMAMix, state="8bit", placement="paged"):
    """`AdEMAMix` with paged 8-bit state."""


class PagedAdEMAMix32bit(AdEMAMix, state="32bit", placement="paged"):
    """`AdEMAMix` with paged 32-bit state."""
