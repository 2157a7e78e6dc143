"""8-bit block-wise quantization with any sorted codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import check_optional_tensors, check_state, check_tensors
from .codebooks import shared_table
from .formats import check_blocksize, check_layout, geometry
from .nested import compress, expand
from .ops import blockwise as ops
from .state import QuantState


def quantize_blockwise(
    A: Tensor,
    code: Tensor | None = None,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 4096,
    nested: bool = False,
    layout: str = "row",
) -> tuple[Tensor, QuantState]:
    """Quantize a tensor to 8-bit codes with one scale a block.

    Every element becomes the code whose value is nearest to x / absmax; ties go to the lower
    value. The decision is exact for codebooks whose midpoints have at most 29 significant bits,
    as those of this package do. NaN and infinity: see `quantize_4bit`.

    Args:
        A: float32, bfloat16 or float16; any shape, strided or empty.
        code: Codebook, float32 [256] in ascending order; the signed dynamic map by default.
        absmax: Written in place if given: float32 scales, contiguous, of the shape below.
        out: Written in place if given: uint8 codes, contiguous, of the shape of A.
        blocksize: Elements in a block, at least 1.
        nested: Double quantization: the scales become 8-bit codes.
        layout: "row" (blocks do not cross rows) or "flat" (the tensor is one row).

    Returns:
        The codes, uint8 of the shape of A, and the state that decodes them. For A of shape
        [..., C] the scales are [..., ceil(C/blocksize)]; for the flat layout
        [ceil(n/blocksize)].

    Raises:
        TypeError, ValueError: An argument is out of range; the message names it.
    """
    check_tensors(A=A)
    check_optional_tensors(code=code, absmax=absmax, out=out)
    check_blocksize(blocksize, four_bit=False)
    check_layout(layout)
    if code is None:
        code = shared_table("dynamic", A.device)
    source = A.detach() if A.requires_grad else A
    if out is None and absmax is None:
        codes, scales = ops.quantize_blockwise(source, code, blocksize, layout)
    else:
        codes, scales = ops.new_results(A, geometry(A.shape, blocksize, layout), layout)
        codes = codes if out is None else out
        scales = scales if absmax is None else absmax
        ops.quantize_blockwise_out(source, code, blocksize, layout, codes=codes, absmax=scales)
    offset = state2 = None
    if nested:
        scales, offset, state2 = compress(scales)
    state = QuantState(
        absmax=scales,
        shape=A.shape,
        dtype=A.dtype,
        blocksize=blocksize,
        quant_type=None,
        code=code,
        layout=layout,
        offset=offset,
        state2=state2,
    )
    return codes, state


def dequantize_blockwise(
    A: Tensor,
    quant_state: QuantState | None = None,
    absmax: Tensor | None = None,
    code: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 4096,
) -> Tensor:
    """Decode 8-bit codes: code value × scale in float32, rounded once to the result's dtype.

    Args:
        A: Codes, uint8.
        quant_state: From `quantize_blockwise`.
        absmax: Without quant_state: float32 scales in row layout.
        code: Without quant_state: codebook, float32 [256]; the signed dynamic map by default.
        out: Written in place and returned if given; contiguous; its dtype is the result's.
        blocksize: Used without quant_state only.

    Returns:
        A tensor of the shape of A in quant_state.dtype (float32 without quant_state), or `out`.

    Raises:
        TypeError, ValueError: An argument is missing or does not fit; the message names it.
    """
    check_tensors(A=A)
    check_optional_tensors(absmax=absmax, code=code, out=out)
    check_blocksize(blocksize, four_bit=False)
    dtype, layout = torch.float32, "row"
    if quant_state is not None:
        check_state(quant_state)
        if quant_state.quant_type is not None:
            raise ValueError("quant_state is of 4-bit codes; decode them with dequantize_4bit")
        if quant_state.shape != A.shape:
            raise ValueError(
                f"A must have the shape of quant_state, {tuple(quant_state.shape)}, "
                f"got {tuple(A.shape)}"
            )
        absmax, code = quant_state.absmax, quant_state.code
        dtype, layout = quant_state.dtype, quant_state.layout
        blocksize = quant_state.blocksize
        if quant_state.state2 is not None and quant_state.offset is not None:
            absmax = expand(absmax, quant_state.offset, quant_state.state2)
    elif absmax is None:
        raise ValueError("one of quant_state and absmax is required")
    elif code is None:
        code = shared_table("dynamic", A.device)
    if out is None:
        decoded: Tensor = ops.dequantize_blockwise(A, code, absmax, blocksize, layout, dtype)
        return decoded
    ops.dequantize_blockwise_out(A, code, absmax, blocksize, layout, out=out)
    return out
