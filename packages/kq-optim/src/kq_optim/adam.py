"""Adam and AdamW under their familiar names."""

from __future__ import annotations

from typing import TypedDict, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from kq_optim.optimizer import Optimizer
from kq_optim.rules import ADAM


class Options32bit(TypedDict, total=False):
    """Keyword-only arguments of the names that fix 32-bit state, as in `Adam`."""

    amsgrad: bool
    maximize: bool
    placement: str


class Options8bit(Options32bit, total=False):
    """Keyword-only arguments of the names that fix 8-bit state, as in `Adam`."""

    min_8bit_size: int


class Options(Options8bit, total=False):
    """Keyword-only arguments of `Adam`."""

    state: str


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015) with weight decay added to the gradient, as `torch.optim.Adam`.

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer. Parameters
            that never get a gradient may be of any kind; the others are float32, bfloat16 or
            float16, and their gradients of the same dtype.
        lr: learning rate, a number or a tensor of one element.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator.
        weight_decay: the gradient becomes g + weight_decay * p.
        amsgrad: not supported: True raises ValueError.
        maximize: ascend instead of descend.
        state: "32bit", or "8bit": about 2.03 bytes per parameter instead of 8.
        min_8bit_size: parameters with fewer elements keep 32-bit state.
        placement: where state is kept: "resident", the memory of the parameter's device.

    Raises:
        TypeError, ValueError: for an argument out of range, naming it.
    """

    rule = ADAM
    decoupled = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        state: str = "32bit",
        min_8bit_size: int = 4096,
        placement: str = "resident",
    ) -> None:
        if amsgrad:
            raise ValueError("amsgrad=True is not supported; leave it False")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "state": state,
            "min_8bit_size": min_8bit_size,
            "placement": placement,
        }
        super().__init__(params, defaults)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): p *= 1 - lr * weight_decay.

    Arguments are those of `Adam`; weight_decay defaults to 1e-2.
    """

    decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **options)


class Adam8bit(Adam):
    """`Adam` with state="8bit"."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options8bit],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, state="8bit", **options)


class AdamW8bit(AdamW):
    """`AdamW` with state="8bit"."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options8bit],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, state="8bit", **options)


class Adam32bit(Adam):
    """`Adam` with state="32bit"."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options32bit],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, state="32bit", **options)


class AdamW32bit(AdamW):
    """`AdamW` with state="32bit"."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options32bit],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, state="32bit", **options)
