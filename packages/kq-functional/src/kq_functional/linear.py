"""The linear layer on 4-bit weights."""

from __future__ import annotations

from torch import Tensor

from .arguments import check_optional_tensors, check_state, check_tensors
from .operands import autocast, is_differentiable
from .ops import linear as ops
from .state import QuantState


def linear_4bit(
    x: Tensor, packed: Tensor, quant_state: QuantState, bias: Tensor | None = None
) -> Tensor:
    """Compute x @ W.T + bias with a 4-bit weight W, without storing W in full where possible.

    Differentiable in x and bias; W is frozen. Under autocast x and bias are cast as
    torch.nn.functional.linear casts them.

    Args:
        x: float32, bfloat16 or float16, [..., K]; any leading dimensions, also empty ones.
        packed: Packed codes of W, uint8.
        quant_state: How they decode; its shape is [N, K].
        bias: [N] in the dtype of x.

    Returns:
        [..., N] in the dtype of x (of autocast, if it is enabled for the device of x).

    Raises:
        TypeError, ValueError: Shapes, dtypes or devices do not fit; the message names the argument.
    """
    check_tensors(x=x, packed=packed)
    check_optional_tensors(bias=bias)
    check_state(quant_state)
    if quant_state.quant_type is None:
        raise ValueError("quant_state must be of 4-bit codes, got one of 8-bit codes")
    x, bias = autocast(x, bias)
    absmax, *nested = quant_state.scales
    op = ops.linear_4bit if is_differentiable(x, bias) else ops.linear_4bit_inference
    product: Tensor = op(
        x,
        packed,
        absmax,
        bias,
        tuple(quant_state.shape),  # a torch.Size takes the dispatcher longer to read
        quant_state.blocksize,
        quant_state.quant_type,
        quant_state.layout,
        *nested,
    )
    return product
