"""Optimizer steps over lists of tensors, in place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .arguments import check_lists, check_numbers
from .ops import optimizer as ops
from .rules import check_rule


def optimizer_step_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool = False,
) -> None:
    """Step n parameters whose state is quantized to 8 bits in flat blocks of 256.

    A block of state is decoded, updated in float32 and encoded again with a new scale; the
    parameter is updated from the new state before it is encoded, and rounded once. The rule is
    documented in `kq_functional.rules`.

    Args:
        rule: "adam", which is AdamW if `decoupled`.
        params: n parameters, float32, bfloat16 or float16; updated in place.
        grads: n gradients, each with shape, dtype and device of its parameter.
        codes: 2n uint8 tensors, the codes of state 1 of all, then of state 2; updated in place.
        absmax: 2n float32 tensors of ceil(elements / 256) scales, likewise.
        code_maps: The two codebooks, float32 [256] ascending: for Adam signed, then unsigned.
        steps: n step numbers: of the step taken now, from 1.
        lr: Learning rate.
        beta1: Decay of state 1.
        beta2: Decay of state 2.
        eps: Added to the square root of the second moment.
        weight_decay: Factor of the decay.
        decoupled: Decay the parameter (AdamW) instead of adding the decay to the gradient (Adam).
        maximize: Ascend instead of descend.

    Raises:
        TypeError, ValueError: A list or tensor does not fit; nothing is changed then.
    """
    check_rule(rule)
    check_lists(Tensor, params=params, grads=grads, codes=codes, absmax=absmax, code_maps=code_maps)
    check_lists(int, steps=steps)
    check_numbers(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    ops.optimizer_step_8bit(
        rule,
        params,
        grads,
        codes,
        absmax,
        code_maps,
        steps,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        decoupled=decoupled,
        maximize=maximize,
    )


def optimizer_step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool = False,
) -> None:
    """Step n parameters whose state is float32.

    Args:
        rule: "adam", which is AdamW if `decoupled`.
        params: n parameters, float32, bfloat16 or float16; updated in place, rounded once.
        grads: n gradients, each with shape, dtype and device of its parameter.
        states: 2n float32 tensors: state 1 of all, then state 2; updated in place.
        steps: n step numbers: of the step taken now, from 1.
        lr: Learning rate.
        beta1: Decay of state 1.
        beta2: Decay of state 2.
        eps: Added to the square root of the second moment.
        weight_decay: Factor of the decay.
        decoupled: Decay the parameter (AdamW) instead of adding the decay to the gradient (Adam).
        maximize: Ascend instead of descend.

    Raises:
        TypeError, ValueError: A list or tensor does not fit; nothing is changed then.
    """
    check_rule(rule)
    check_lists(Tensor, params=params, grads=grads, states=states)
    check_lists(int, steps=steps)
    check_numbers(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    ops.optimizer_step_32bit(
        rule,
        params,
        grads,
        states,
        steps,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        decoupled=decoupled,
        maximize=maximize,
    )
