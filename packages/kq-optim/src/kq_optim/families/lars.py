"""LARS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, below_one, flag, learning_rate, number, optional
from kq_optim.rules import Update, momentum_arguments

_TRUST_COEFFICIENT = 1e-3
_EPS = 1e-8


class LARS(Optimizer):
    """LARS (You et al., 2017, arXiv 1708.03888): momentum, scaled to each parameter's norm.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        momentum: decay rate of the momentum, in [0, 1).
        dampening: each gradient but the first counts 1 - dampening in the momentum.
        weight_decay: the gradient becomes g + weight_decay * p.
        nesterov: step along g + momentum * buffer; needs momentum, and dampening=0.
        eps: added to the denominator of the published trust ratio,
            trust_coefficient * |p| / (|g| + weight_decay * |p| + eps).
        trust_coefficient: see `eps`.
        max_unorm: None for the published trust ratio; a number for the variant of bitsandbytes,
            which only shortens updates to at most max_unorm * |p|. It has no `eps` and no
            `trust_coefficient`.
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
        "eps": number,
        "trust_coefficient": number,
        "max_unorm": optional(number),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        eps: float = _EPS,
        trust_coefficient: float = _TRUST_COEFFICIENT,
        max_unorm: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "eps": eps,
            "trust_coefficient": trust_coefficient,
            "max_unorm": max_unorm,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        hyper = momentum_arguments(options)
        published = {name: options[name] for name in ("eps", "trust_coefficient")}
        if options["max_unorm"] is None:
            return Update("lars", {**hyper, **published})
        if published != {"eps": _EPS, "trust_coefficient": _TRUST_COEFFICIENT}:
            raise ValueError(
                "max_unorm has no eps and no trust_coefficient; leave one or the other"
            )
        return Update("lars_clipped", {**hyper, "max_unorm": options["max_unorm"]})


class LARS8bit(LARS, state="8bit"):
    """`LARS` with 8-bit state."""


class LARS32bit(LARS, state="32bit"):
    """`LARS` with 32-bit state."""


class PagedLARS(LARS, placement="paged"):
    """`LARS` with paged state."""


class PagedLARS8bit(LARS, state="8bit", placement="paged"):
    """`LARS` with paged 8-bit state."""


class PagedLARS32bit(LARS, state="32bit", placement="paged"):
    """`LARS` with paged 32-bit state."""
