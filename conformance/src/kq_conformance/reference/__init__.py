"""The definition of every operation, in NumPy float64.

Written from the mathematics: nothing here imports a backend, torch, or a kq package. Arrays are
float64 (values) and uint8 (codes; int64 those of int8); a result that is stored is rounded by
`kq_conformance.floats`.
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
from kq_conformance.reference.int8 import (
    INT8_LARGEST,
    INT8_MAX_COLS,
    Int8Rows,
    int8_absmax,
    int8_codes,
    int8_dequantize,
    int8_linear,
    int8_matmul,
    int8_outlier_elements,
    int8_quantize,
    int8_ratios,
    int8_scales,
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
    RULES,
    Hyper,
    OptimizerRule,
    ademamix_factors,
    decode_state,
    join_master,
    optimizer_step,
    optimizer_step_8bit,
    random_words,
    round_stochastic,
    split_master,
)

__all__ = [
    "FOUR_BIT_BLOCKSIZES",
    "INT8_LARGEST",
    "INT8_MAX_COLS",
    "NESTED_BLOCKSIZE",
    "OPTIMIZER_BLOCKSIZE",
    "RULES",
    "Codebook",
    "Hyper",
    "Int8Rows",
    "OptimizerRule",
    "ademamix_factors",
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
    "int8_absmax",
    "int8_codes",
    "int8_dequantize",
    "int8_linear",
    "int8_matmul",
    "int8_outlier_elements",
    "int8_quantize",
    "int8_ratios",
    "int8_scales",
    "join_master",
    "linear",
    "linear_backward",
    "linear_grouped",
    "linear_grouped_backward",
    "optimizer_step",
    "optimizer_step_8bit",
    "pack",
    "quantize_4bit",
    "quantize_blockwise",
    "quantize_scales",
    "random_words",
    "round_stochastic",
    "split_master",
    "spread",
    "unpack",
    "weights_4bit",
]
