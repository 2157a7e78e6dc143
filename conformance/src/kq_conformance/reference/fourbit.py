"""4-bit quantization (NF4, FP4) with optional double quantization of the scales."""

import numpy as np

from kq_conformance.floats import FLOAT32, FORMATS, Array, Float64
from kq_conformance.reference.blocks import block_absmax, count_blocks, decode, encode, spread
from kq_conformance.reference.blockwise import quantize_blockwise
from kq_conformance.reference.codebooks import codebook_4bit, dynamic_map

__all__ = [
    "NESTED_BLOCKSIZE",
    "decode_scales",
    "dequantize_4bit",
    "pack",
    "quantize_4bit",
    "quantize_scales",
    "unpack",
    "weights_4bit",
]

NESTED_BLOCKSIZE = 256  # double quantization: scales in a block of scales


def pack(codes: Array, zero: int) -> Array:
    """Two codes in a byte, the first in the high nibble: uint8 [R, C] -> uint8 [R, ceil(C/2)].

    A row of odd length is padded by one code of zero.
    """
    rows, cols = codes.shape
    padded = np.full((rows, cols + cols % 2), zero, dtype=np.uint8)
    padded[:, :cols] = codes
    return (padded[:, 0::2] << 4) | padded[:, 1::2]


def unpack(packed: Array, cols: int) -> Array:
    """The codes of packed bytes: uint8 [R, ceil(C/2)] -> uint8 [R, C]."""
    codes = np.stack([packed >> 4, packed & 15], axis=2)
    return codes.reshape(packed.shape[0], 2 * packed.shape[1])[:, :cols]


def quantize_4bit(x: Float64, quant_type: str, blocksize: int) -> tuple[Array, Float64]:
    """Quantize a matrix to 4 bits: code = nearest(x / absmax), absmax = max |x| of the block.

    Source: QLoRA (arXiv:2305.14314), section 3, equation 1 with the block-wise constants of section
        2;
    byte order and treatment of ties, zero blocks, NaN and Inf as docs/FORMAT.md states them.

    Args:
        x: float64 [R, C]; each value exact in the stored type.
        quant_type: "nf4" or "fp4".
        blocksize: elements that share a scale, along a row.

    Returns:
        packed uint8 [R, ceil(C/2)] and absmax float64 [R, ceil(C/blocksize)] (each a float32).
    """
    book = codebook_4bit(quant_type)
    absmax = block_absmax(x, blocksize)
    codes = encode(x, spread(absmax, x.shape[1], blocksize), book)
    return pack(codes, book.zero), absmax


def weights_4bit(
    packed: Array, absmax: Float64, cols: int, quant_type: str, blocksize: int
) -> Float64:
    """The weights that packed codes stand for, unrounded: float64 [R, C], code × absmax."""
    scales = spread(absmax, cols, blocksize)
    return decode(unpack(packed, cols), scales, codebook_4bit(quant_type))


def dequantize_4bit(
    packed: Array, absmax: Float64, cols: int, quant_type: str, blocksize: int, dtype: str
) -> Float64:
    """Dequantize: round_dtype(round_float32(code × absmax)).

    The product is rounded to float32 and then once to the result type, so that all backends give
    the same bits. Source: docs/FORMAT.md.

    Args:
        packed: uint8 [R, ceil(C/2)].
        absmax: float64 [R, ceil(C/blocksize)].
        cols: C.
        quant_type: "nf4" or "fp4".
        blocksize: elements that share a scale.
        dtype: type of the result: "float32", "bfloat16" or "float16".

    Returns:
        float64 [R, C] holding values of `dtype`.
    """
    exact = weights_4bit(packed, absmax, cols, quant_type, blocksize)
    return FORMATS[dtype].round(FLOAT32.round(exact))


def quantize_scales(absmax: Float64, offset: float) -> tuple[Array, Float64]:
    """Double quantization: 8-bit codes of absmax − offset.

    q = nearest(round_float32(absmax − offset) / nested_absmax) in the signed dynamic map, blocks of
    256 over all scales in row-major order. `offset` is the mean of the scales as float32; it is
    stored, so that any rounding of the mean decodes correctly. Source: QLoRA (arXiv:2305.14314),
    section 3.

    Args:
        absmax: float64 [R, blocks].
        offset: the mean that was subtracted.

    Returns:
        codes uint8 [R, blocks], nested_absmax float64 [ceil(R*blocks/256)].
    """
    residual = FLOAT32.round(absmax - offset).reshape(1, -1)
    codes, nested = quantize_blockwise(residual, dynamic_map(True).values, NESTED_BLOCKSIZE)
    return codes.reshape(absmax.shape), nested.reshape(-1)


def decode_scales(
    codes: Array, nested_absmax: Float64, nested_code: Float64, offset: float
) -> Float64:
    """absmax_i = round32(round32(nested_code[codes_i] × nested_absmax[i div 256]) + offset).

    Two float32 roundings, no fused multiply-add. Source: docs/FORMAT.md.

    Args:
        codes: uint8 [R, blocks].
        nested_absmax: float64 [ceil(R*blocks/256)].
        nested_code: float64 [256].
        offset: a float32.

    Returns:
        float64 [R, blocks] holding float32 values.
    """
    flat = codes.reshape(-1)
    group = np.repeat(nested_absmax, NESTED_BLOCKSIZE)[: flat.size]
    assert count_blocks(flat.size, NESTED_BLOCKSIZE) == nested_absmax.size
    product = FLOAT32.round(nested_code[flat] * group)
    return FLOAT32.round(product + offset).reshape(codes.shape)
