"""States in 8 bits."""

from collections.abc import Sequence

import numpy as np

from kq_conformance.floats import Array, Float64
from kq_conformance.reference.blocks import spread
from kq_conformance.reference.blockwise import quantize_blockwise
from kq_conformance.reference.codebooks import codebook_8bit
from kq_conformance.reference.optimizer.hyper import Hyper
from kq_conformance.reference.optimizer.rules import optimizer_step

__all__ = ["OPTIMIZER_BLOCKSIZE", "decode_state", "optimizer_step_8bit"]

OPTIMIZER_BLOCKSIZE = 256  # elements of a state that share a scale, over the flattened parameter

CodedState = tuple[Array, Float64]  # codes uint8 [n], absmax float64 [ceil(n/256)]


def decode_state(codes: Array, absmax: Float64, code: Float64) -> Float64:
    """An 8-bit state as numbers, unrounded: code[codes_i] × absmax[i div 256]; float64 [n]."""
    scales = spread(absmax.reshape(1, -1), codes.size, OPTIMIZER_BLOCKSIZE).reshape(-1)
    with np.errstate(invalid="ignore"):
        return codebook_8bit(code).values[codes] * scales


def optimizer_step_8bit(
    rule: str,
    p: Float64,
    g: Float64,
    states: Sequence[CodedState],
    code_maps: Sequence[Float64],
    step: int,
    hyper: Hyper,
) -> tuple[Float64, tuple[CodedState, ...]]:
    """One step with 8-bit states: decode, step, re-encode with a new scale for each block.

    The parameter moves by the new states before they are quantized.
    Source: "8-bit Optimizers via Block-wise Quantization" (arXiv:2110.02861), section 2.

    Args:
        rule: a name in `RULES`.
        p: float64 [n], parameter.
        g: float64 [n], gradient.
        states: (codes uint8 [n], absmax float64 [ceil(n/256)]) of each state.
        code_maps: float64 [256] for each state: the signed or unsigned dynamic map.
        step: the number of the step being taken, from 1.
        hyper: hyperparameters.

    Returns:
        The new p, unrounded, and the new states.
    """
    decoded = tuple(
        decode_state(codes, absmax, code)
        for (codes, absmax), code in zip(states, code_maps, strict=True)
    )
    p, stepped = optimizer_step(rule, p, g, decoded, step, hyper)
    coded = (
        quantize_blockwise(state.reshape(1, -1), code, OPTIMIZER_BLOCKSIZE)
        for state, code in zip(stepped, code_maps, strict=True)
    )
    return p, tuple((codes.reshape(-1), absmax.reshape(-1)) for codes, absmax in coded)
