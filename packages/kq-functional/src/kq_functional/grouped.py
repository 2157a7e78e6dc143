"""The linear layers of many experts on 4-bit weights, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import check_lists, check_optional_tensors, check_state, check_tensors
from .operands import autocast, is_differentiable
from .ops import grouped as ops
from .state import QuantState


def linear_4bit_grouped(
    x: Tensor,
    packed: Tensor,
    quant_state: QuantState,
    counts: Sequence[int] | Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute `linear_4bit` for the rows of many experts, each with its own 4-bit weight.

    For a mixture of experts: the rows of x are sorted by expert, and any number of them, also none,
    may belong to one. No row is padded, and each gets the bits that `linear_4bit` with the weight
    of its expert gives. Differentiable in x and bias; the weights are frozen. Under autocast x and
    bias are cast as torch.nn.functional.linear casts them.

    Args:
        x: float32, bfloat16 or float16, [T, K]; first the rows of expert 0, then those of expert 1,
            and so on.
        packed: Packed codes of the weights [E, N, K], uint8.
        quant_state: How they decode; its shape is [E, N, K].
        counts: Rows of each expert: E numbers >= 0 that add up to T. A tensor is int64 or int32,
            [E], on any device, and is read on the CPU; of a traced graph it is an input, while
            numbers in a list may be constants in it.
        bias: [E, N] in the dtype of x.

    Returns:
        [T, N] in the dtype of x (of autocast, if it is enabled for the device of x).

    Raises:
        TypeError, ValueError: Shapes, dtypes, devices or counts do not fit; the message names the
            argument.
    """
    check_tensors(x=x, packed=packed)
    check_optional_tensors(bias=bias)
    check_state(quant_state)
    if quant_state.quant_type is None:
        raise ValueError("quant_state must be of 4-bit codes, got one of 8-bit codes")
    x, bias = autocast(x, bias)
    absmax, *nested = quant_state.scales
    op = (
        ops.linear_4bit_grouped if is_differentiable(x, bias) else ops.linear_4bit_grouped_inference
    )
    product: Tensor = op(
        x,
        packed,
        absmax,
        bias,
        _as_tensor(counts),
        tuple(quant_state.shape),
        quant_state.blocksize,
        quant_state.quant_type,
        quant_state.layout,
        *nested,
    )
    return product


def _as_tensor(counts: Sequence[int] | Tensor) -> Tensor:
    if isinstance(counts, Tensor):
        return counts
    check_lists(int, counts=counts)
    try:
        return torch.tensor(counts, dtype=torch.int64, device="cpu")
    except (OverflowError, RuntimeError, ValueError):
        raise ValueError(f"counts must be numbers below 2^63, got {counts}") from None
