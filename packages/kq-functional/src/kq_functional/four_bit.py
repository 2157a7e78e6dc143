"""4-bit quantization: NF4 and FP4."""

from __future__ import annotations

from torch import Tensor

from .arguments import check_optional_tensors, check_state, check_tensors
from .codebooks import shared_table
from .formats import check_blocksize, check_layout, check_quant_type, geometry
from .nested import compress
from .ops import four_bit as ops
from .state import QuantState


def quantize_4bit(
    A: Tensor,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 64,
    compress_statistics: bool = False,
    quant_type: str = "nf4",
    layout: str = "row",
) -> tuple[Tensor, QuantState]:
    """Quantize a tensor to 4-bit codes with one scale a block.

    Every element becomes the code whose value is nearest to x / absmax, decided exactly; ties go
    to the lower value. A block with a NaN gets the scale NaN, one with an infinity (and no NaN)
    the scale infinity: such blocks decode to NaN.

    Args:
        A: float32, bfloat16 or float16; any shape, strided or empty.
        absmax: Written in place if given: float32 scales, contiguous, of the shape below.
        out: Written in place if given: uint8 codes, contiguous, of the shape below.
        blocksize: Elements in a block: 32, 64, ..., 4096.
        compress_statistics: Double quantization: the scales become 8-bit codes.
        quant_type: "nf4" or "fp4".
        layout: "row" (blocks do not cross rows) or "flat" (the tensor is one row).

    Returns:
        The packed codes, uint8, two in a byte with the first in the high nibble, and the state
        that decodes them. For A of shape [..., C] the codes are [..., ceil(C/2)] and the scales
        [..., ceil(C/blocksize)]; for the flat layout, [ceil(n/2), 1] and [ceil(n/blocksize)].

    Raises:
        TypeError, ValueError: An argument is out of range; the message names it.
    """
    check_tensors(A=A)
    check_optional_tensors(absmax=absmax, out=out)
    check_blocksize(blocksize, four_bit=True)
    check_quant_type(quant_type)
    check_layout(layout)
    source = A.detach() if A.requires_grad else A
    if out is None and absmax is None:
        packed, scales = ops.quantize_4bit(source, blocksize, quant_type, layout)
    else:
        packed, scales = ops.new_results(A, geometry(A.shape, blocksize, layout), layout)
        packed = packed if out is None else out
        scales = scales if absmax is None else absmax
        ops.quantize_4bit_out(source, blocksize, quant_type, layout, packed=packed, absmax=scales)
    offset = state2 = None
    if compress_statistics:
        scales, offset, state2 = compress(scales)
    state = QuantState(
        absmax=scales,
        shape=A.shape,
        dtype=A.dtype,
        blocksize=blocksize,
        quant_type=quant_type,
        code=shared_table(quant_type, A.device),
        layout=layout,
        offset=offset,
        state2=state2,
    )
    return packed, state


def dequantize_4bit(
    A: Tensor,
    quant_state: QuantState | None = None,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 64,
    quant_type: str = "nf4",
) -> Tensor:
    """Decode 4-bit codes: code value × scale in float32, rounded once to the result's dtype.

    Args:
        A: Packed codes, uint8.
        quant_state: From `quantize_4bit`.
        absmax: Without quant_state: float32 scales, in row layout for the shape of `out`.
        out: Written in place and returned if given; contiguous. Without quant_state it is
            required and gives shape and dtype.
        blocksize: Used without quant_state only.
        quant_type: Used without quant_state only.

    Returns:
        A tensor of quant_state.shape and quant_state.dtype, or `out`.

    Raises:
        TypeError, ValueError: An argument is missing or does not fit; the message names it.
    """
    check_tensors(A=A)
    check_optional_tensors(absmax=absmax, out=out)
    if quant_state is None:
        if absmax is None or out is None:
            raise ValueError("without quant_state both absmax and out are required")
        check_blocksize(blocksize, four_bit=True)
        check_quant_type(quant_type)
        ops.dequantize_4bit_out(A, absmax, out.shape, blocksize, quant_type, "row", out=out)
        return out
    check_state(quant_state)
    if quant_state.quant_type is None:
        raise ValueError("quant_state is of 8-bit codes; decode them with dequantize_blockwise")
    scales = quant_state.scales
    fixed = quant_state.shape, quant_state.blocksize, quant_state.quant_type, quant_state.layout
    if out is None:
        decoded: Tensor = ops.dequantize_4bit(
            A, scales.absmax, *fixed, quant_state.dtype, *scales[1:]
        )
        return decoded
    ops.dequantize_4bit_out(A, scales.absmax, *fixed, *scales[1:], out=out)
    return out


def quantize_nf4(
    A: Tensor,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 64,
    compress_statistics: bool = False,
    layout: str = "row",
) -> tuple[Tensor, QuantState]:
    """Quantize to NF4, the 4-bit type for normally distributed weights; see `quantize_4bit`."""
    return quantize_4bit(A, absmax, out, blocksize, compress_statistics, "nf4", layout)


def quantize_fp4(
    A: Tensor,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 64,
    compress_statistics: bool = False,
    layout: str = "row",
) -> tuple[Tensor, QuantState]:
    """Quantize to FP4, the 4-bit floating-point type; see `quantize_4bit`."""
    return quantize_4bit(A, absmax, out, blocksize, compress_statistics, "fp4", layout)


def dequantize_nf4(
    A: Tensor,
    quant_state: QuantState | None = None,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 64,
) -> Tensor:
    """Decode NF4 codes; see `dequantize_4bit`."""
    return _dequantize_type("nf4", A, quant_state, absmax, out, blocksize)


def dequantize_fp4(
    A: Tensor,
    quant_state: QuantState | None = None,
    absmax: Tensor | None = None,
    out: Tensor | None = None,
    blocksize: int = 64,
) -> Tensor:
    """Decode FP4 codes; see `dequantize_4bit`."""
    return _dequantize_type("fp4", A, quant_state, absmax, out, blocksize)


def _dequantize_type(
    quant_type: str,
    A: Tensor,
    quant_state: QuantState | None,
    absmax: Tensor | None,
    out: Tensor | None,
    blocksize: int,
) -> Tensor:
    if quant_state is not None and quant_state.quant_type != quant_type:
        raise ValueError(f"quant_state is of {quant_state.quant_type}, not of {quant_type}")
    return dequantize_4bit(A, quant_state, absmax, out, blocksize, quant_type)
