"""LAMB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.options import Options, decay_rates, flag, learning_rate, number, optional
from kq_optim.rules import Update


class LAMB(Optimizer):
    """LAMB (You et al., 2020, arXiv 1904.00962): Adam, scaled to each parameter's norm.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        lr: learning rate, a number or a tensor of one element.
        bias_correction: whether the moments are corrected for their start from zero.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator.
        weight_decay: factor of the decay.
        adam_w_mode: add the decay to the update, as published; if False, to the gradient.
        max_unorm: None for the published trust ratio |p| / |update|; a number for the variant of
            bitsandbytes, which only shortens updates to at most max_unorm * |p|, always corrects
            the bias, and in `adam_w_mode` decays as `AdamW`.
        **options: see `Optimizer`.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    checks: ClassVar = {
        "lr": learning_rate,
        "bias_correction": flag,
        "betas": decay_rates(2),
        "eps": number,
        "weight_decay": number,
        "adam_w_mode": flag,
        "max_unorm": optional(number),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        adam_w_mode: bool = True,
        max_unorm: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        hyper = {
            "lr": lr,
            "bias_correction": bias_correction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adam_w_mode": adam_w_mode,
            "max_unorm": max_unorm,
        }
        super().__init__(params, hyper, options)

    def _update(self, options: Mapping[str, Any]) -> Update:
        beta1, beta2 = options["betas"]
        hyper = {"beta1": beta1, "beta2": beta2, "eps": options["eps"]}
        if options["max_unorm"] is None:
            hyper["bias_correction"] = float(options["bias_correction"])
            return Update("lamb", hyper, options["adam_w_mode"])
        if not options["bias_correction"]:
            raise ValueError("bias_correction=False is not defined with max_unorm; leave one out")
        hyper["max_unorm"] = options["max_unorm"]
        return Update("lamb_clipped", hyper, options["adam_w_mode"])


class LAMB8bit(LAMB, state="8bit"):
    """`LAMB` with 8-bit state."""


class LAMB32bit(LAMB, state="32bit"):
    """`LAMB` with 32-bit state."""


class PagedLAMB(LAMB, placement="paged"):
    """`LAMB` with paged state."""


class PagedLAMB8bit(LAMB, state="8bit", placement="paged"):
    """`LAMB` with paged 8-bit state."""


class PagedLAMB32bit(LAMB, state="32bit", placement="paged"):
    """`LAMB` with paged 32-bit state."""
