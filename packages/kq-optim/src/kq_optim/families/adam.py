"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, decay_rates, flag, learning_rate, number
from kq_optim.rules import Update

_CHECKS = {
    "lr": learning_rate,
    "betas": decay_rates(2),
    "eps": number,
    "weight_decay": number,
    "amsgrad": flag,
}


def _update(options: Mapping[str, Any], decoupled: bool) -> Update:
    beta1, beta2 = options["betas"]
    name = "amsgrad" if options["amsgrad"] else "adam"
    return Update(name, {"beta1": beta1, "beta2": beta2, "eps": options["eps"]}, decoupled)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), weight decay added to the gradient, as `torch.optim.Adam`.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator.
        weight_decay: the gradient becomes g + weight_decay * p.
        amsgrad: divide by the largest second moment so far (Reddi et al., 2018): one state more.
        decoupled: shrink the parameter instead: p *= 1 - lr * weight_decay, as `AdamW`, and as
            bitsandbytes' Adam, does.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {**_CHECKS, "decoupled": flag}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "decoupled": decoupled,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        return _update(options, options["decoupled"])


class Adam8bit(Adam, state="8bit"):
    """`Adam` with 8-bit state."""


class Adam32bit(Adam, state="32bit"):
    """`Adam` with 32-bit state."""


class PagedAdam(Adam, placement="paged"):
    """`Adam` with paged state."""


class PagedAdam8bit(Adam, state="8bit", placement="paged"):
    """`Adam` with paged 8-bit state."""


class PagedAdam32bit(Adam, state="32bit", placement="paged"):
    """`Adam` with paged 32-bit state."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as `torch.optim.AdamW`.

    Args:
        params: as in `Adam`.
        lr: as in `Adam`.
        betas: as in `Adam`.
        eps: as in `Adam`.
        weight_decay: before the step, p *= 1 - lr * weight_decay.
        amsgrad: as in `Adam`.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks = _CHECKS

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        return _update(options, decoupled=True)


class AdamW8bit(AdamW, state="8bit"):
    """`AdamW` with 8-bit state."""


class AdamW32bit(AdamW, state="32bit"):
    """`AdamW` with 32-bit state."""


class PagedAdamW(AdamW, placement="paged"):
    """`AdamW` with paged state."""


class PagedAdamW8bit(AdamW, state="8bit", placement="paged"):
    """`AdamW` with paged 8-bit state."""


class PagedAdamW32bit(AdamW, state="32bit", placement="paged"):
    """`AdamW` with paged 32-bit state."""
