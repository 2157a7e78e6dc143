"""8-bit block-wise quantization with any ascending codebook of 256 values."""

from kq_conformance.floats import FLOAT32, FORMATS, Array, Float64
from kq_conformance.reference.blocks import block_absmax, decode, encode, spread
from kq_conformance.reference.codebooks import codebook_8bit

__all__ = ["dequantize_blockwise", "quantize_blockwise"]


def quantize_blockwise(x: Float64, code: Float64, blocksize: int) -> tuple[Array, Float64]:
    """Quantize a matrix to 8 bits: code = nearest(x / absmax), absmax = max |x| of the block.

    Source: "8-bit Optimizers via Block-wise Quantization" (arXiv:2110.02861), section 2.1; ties,
        zero
    blocks, NaN and Inf as docs/FORMAT.md states them.

    Args:
        x: float64 [R, C].
        code: float64 [256], ascending.
        blocksize: elements that share a scale, along a row; any number from 1.

    Returns:
        codes uint8 [R, C] and absmax float64 [R, ceil(C/blocksize)].
    """
    absmax = block_absmax(x, blocksize)
    codes = encode(x, spread(absmax, x.shape[1], blocksize), codebook_8bit(code))
    return codes, absmax


def dequantize_blockwise(
    codes: Array, code: Float64, absmax: Float64, blocksize: int, dtype: str
) -> Float64:
    """Dequantize: round_dtype(round_float32(code[codes] × absmax)).

    Args:
        codes: uint8 [R, C].
        code: float64 [256], ascending.
        absmax: float64 [R, ceil(C/blocksize)].
        blocksize: elements that share a scale.
        dtype: type of the result.

    Returns:
        float64 [R, C] holding values of `dtype`.
    """
    exact = decode(codes, spread(absmax, codes.shape[1], blocksize), codebook_8bit(code))
    return FORMATS[dtype].round(FLOAT32.round(exact))
