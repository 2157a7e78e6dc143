"""The optimizers that are compared, and the ablation of block-wise dynamic quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import kq_functional as kq
import kq_optim
from kq_functional.formats import OPTIMIZER_BLOCKSIZE
from kq_optim.options import DEFAULTS

RATE, DECAY = 2e-3, 0.1
_LION = (
    5  # Chen et al., "Symbolic Discovery of Optimization Algorithms": rate / 3..10, decay * 3..10
)
_SMALLEST: int = DEFAULTS["min_8bit_size"]  # elements of a parameter whose state is quantized


class Requantized(torch.optim.AdamW):
    """AdamW of torch whose moments pass through 8 bits after every step.

    Args:
        params: as for any optimizer.
        maps: code maps of the first and the second moment, float32 [256], ascending.
        blocksize: elements that share a scale; None: all of a tensor.
        **options: of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        maps: tuple[Tensor, Tensor],
        blocksize: int | None,
        **options: Any,
    ) -> None:
        super().__init__(params, **options)
        self._maps, self._blocksize = maps, blocksize

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """As `torch.optim.AdamW.step`."""
        loss = super().step(closure)
        for state in self.state.values():
            for name, code in zip(("exp_avg", "exp_avg_sq"), self._maps, strict=True):
                if state[name].numel() >= _SMALLEST:
                    self._round_trip(state[name], code)
        return loss

    def _round_trip(self, moment: Tensor, code: Tensor) -> None:
        flat = moment.view(1, -1)
        codes, state = kq.quantize_blockwise(
            flat, code=code, blocksize=self._blocksize or flat.numel()
        )
        flat.copy_(kq.dequantize_blockwise(codes, state))


@dataclass(frozen=True)
class Contender:
    """An optimizer.

    Attributes:
        name: in the report.
        make: from the parameters and the number of steps of the run.
        dtype: of the parameters.
        baseline: the name of the contender that it is to equal; its own: it is one.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer]
    dtype: torch.dtype = torch.float32
    baseline: str = "torch AdamW"


def _linear_maps() -> tuple[Tensor, Tensor]:
    return kq.create_linear_map(signed=True), kq.create_linear_map(signed=False)


def _dynamic_maps() -> tuple[Tensor, Tensor]:
    return kq.create_dynamic_map(signed=True), kq.create_dynamic_map(signed=False)


def _adamw(kind: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda params, _: kind(params, lr=RATE, weight_decay=DECAY, **options)


def _lion(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, _: kind(params, lr=RATE / _LION, weight_decay=DECAY * _LION)


def _ademamix(kind: Callable[..., Any]) -> Callable[..., Any]:
    """The slow moment's horizon and its warm-up are as long as the run."""
    return lambda params, steps: kind(
        params,
        lr=RATE,
        betas=(0.9, 0.999, max(0.95, 1 - 3 / steps)),
        t_alpha=steps,
        t_beta3=steps,
        weight_decay=DECAY,
    )


_requantized = partial(_adamw, Requantized)

CONTENDERS = (
    Contender("torch AdamW", _adamw(torch.optim.AdamW)),
    Contender("AdamW8bit", _adamw(kq_optim.AdamW8bit)),
    Contender("PagedAdamW8bit", _adamw(kq_optim.PagedAdamW8bit)),
    Contender("torch AdamW, bfloat16", _adamw(torch.optim.AdamW), torch.bfloat16),
    Contender(
        "AdamW8bit, bfloat16, 24-bit master",
        _adamw(kq_optim.AdamW8bit, rounding="corrected"),
        torch.bfloat16,
    ),
    Contender(
        "AdamW8bit, bfloat16, stochastic",
        _adamw(kq_optim.AdamW8bit, rounding="stochastic"),
        torch.bfloat16,
    ),
    Contender("Lion32bit", _lion(kq_optim.Lion32bit), baseline="Lion32bit"),
    Contender("Lion8bit", _lion(kq_optim.Lion8bit), baseline="Lion32bit"),
    Contender("AdEMAMix32bit", _ademamix(kq_optim.AdEMAMix32bit), baseline="AdEMAMix32bit"),
    Contender("AdEMAMix8bit", _ademamix(kq_optim.AdEMAMix8bit), baseline="AdEMAMix32bit"),
    Contender(
        "ablation: block-wise, dynamic",
        _requantized(maps=_dynamic_maps(), blocksize=OPTIMIZER_BLOCKSIZE),
    ),
    Contender("ablation: tensor-wise, dynamic", _requantized(maps=_dynamic_maps(), blocksize=None)),
    Contender("ablation: tensor-wise, linear", _requantized(maps=_linear_maps(), blocksize=None)),
)
