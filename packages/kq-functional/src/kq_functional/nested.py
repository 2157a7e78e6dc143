"""Double quantization: the scales themselves, quantized to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from .codebooks import shared_table
from .formats import NESTED_BLOCKSIZE
from .ops.blockwise import dequantize_blockwise, quantize_blockwise
from .ops.mean import cascade_mean
from .state import QuantState


def compress(absmax: Tensor) -> tuple[Tensor, Tensor, QuantState]:
    """Quantize float32 scales, all blocks counted as one row.

    Source: Dettmers et al., "QLoRA" (2023), section 3. Scales are positive, so their mean is
    taken off first, to use both signs of the dynamic map.

    Args:
        absmax: float32 scales of any shape.

    Returns:
        uint8 codes of the same shape, the offset (float32, 0-d), and the state of the codes. A
        scale that is not finite makes the offset, and with it every scale, not finite.
    """
    offset = cascade_mean(absmax)
    centered = absmax - offset
    code = shared_table("dynamic", absmax.device)
    codes, nested_absmax = quantize_blockwise(centered, code, NESTED_BLOCKSIZE, "flat")
    state = QuantState(
        absmax=nested_absmax,
        shape=absmax.shape,
        dtype=torch.float32,
        blocksize=NESTED_BLOCKSIZE,
        quant_type=None,
        code=code,
        layout="flat",
    )
    return codes, offset, state


def expand(codes: Tensor, offset: Tensor, state: QuantState) -> Tensor:
    """Return float32 scales of the shape of `codes`: the inverse of `compress`."""
    centered: Tensor = dequantize_blockwise(
        codes, state.code, state.absmax, state.blocksize, state.layout, torch.float32
    )
    return centered + offset
