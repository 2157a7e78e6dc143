"""The definition of every operation, in NumPy float64.

Written from the mathematics: nothing here imports a backend, torch, or a kq package. Arrays are
float64 (values) and uint8 (codes); a result that is stored is rounded by `kq_conformance.floats`.
"""

from kq_conformance.reference.blocks import block_absmax, count_blocks, decode, encode, spread
from kq_conformance.reference.blockwise import dequantize_blockwise, quantize_blockwise
from kq_conformance.reference.codebooks import (
    FOUR_BIT_BLOCKSIZES,
    Codebook,
    codebook_4bit,
    codebook_8bit,
    dynamic_map,
)
from kq_conformance.reference.fourbit import (
    NESTED_BLOCKSIZE,
    decode_scales,
    dequantize_4bit,
    pack,
    quantize_4bit,
    quantize_scales,
    unpack,
    weights_4bit,
)
from kq_conformance.reference.linear import (
    groups,
    linear,
    linear_backward,
    linear_grouped,
    linear_grouped_backward,
)
from kq_conformance.reference.optimizer import (
    OPTIMIZER_BLOCKSIZE,
    Hyper,
    adam,
    adam_8bit,
    decode_state,
)

__all__ = [
    "FOUR_BIT_BLOCKSIZES",
    "NESTED_BLOCKSIZE",
    "OPTIMIZER_BLOCKSIZE",
    "Codebook",
    "Hyper",
    "adam",
    "adam_8bit",
    "block_absmax",
    "codebook_4bit",
    "codebook_8bit",
    "count_blocks",
    "decode",
    "decode_scales",
    "decode_state",
    "dequantize_4bit",
    "dequantize_blockwise",
    "dynamic_map",
    "encode",
    "groups",
    "linear",
    "linear_backward",
    "linear_grouped",
    "linear_grouped_backward",
    "pack",
    "quantize_4bit",
    "quantize_blockwise",
    "quantize_scales",
    "spread",
    "unpack",
    "weights_4bit",
]
