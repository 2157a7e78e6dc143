"""One optimizer step in float64, with states at full precision or in 8 bits."""

from dataclasses import dataclass

import numpy as np

from kq_conformance.floats import FLOAT32, Array, Float64
from kq_conformance.reference.blocks import spread
from kq_conformance.reference.blockwise import quantize_blockwise
from kq_conformance.reference.codebooks import codebook_8bit

__all__ = ["OPTIMIZER_BLOCKSIZE", "Hyper", "adam", "adam_8bit", "decode_state"]

OPTIMIZER_BLOCKSIZE = 256  # elements of a state that share a scale, over the flattened parameter


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters of Adam.

    Attributes:
        lr: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        weight_decay: coefficient of the decay.
        decoupled: True: AdamW, the parameter decays; False: Adam with L2, the gradient grows.
        maximize: True: ascend, the gradient changes its sign.
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = True
    maximize: bool = False


def adam(
    p: Float64, g: Float64, m: Float64, v: Float64, step: int, hyper: Hyper
) -> tuple[Float64, Float64, Float64]:
    """One step of Adam or AdamW.

    With g' = ±g (+ λp if coupled) and p' = p (· (1 − ηλ) if decoupled):
    m ← β₁m + (1−β₁)g',  v ← β₂v + (1−β₂)g'²,  m̂ = m/(1−β₁ᵗ),  v̂ = v/(1−β₂ᵗ),
    p ← p' − η m̂ / (√v̂ + ε). Moments are float32 numbers: beyond the largest one they are infinite.
    Source: Adam (arXiv:1412.6980), algorithm 1; AdamW (arXiv:1711.05101), algorithm 2.

    Args:
        p: float64 [n], parameter.
        g: float64 [n], gradient.
        m: float64 [n], first moment.
        v: float64 [n], second moment.
        step: t, the number of the step being taken, from 1.
        hyper: hyperparameters.

    Returns:
        The new p, m and v, unrounded.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if hyper.maximize:
            g = -g
        if hyper.decoupled:
            p = p * (1 - hyper.lr * hyper.weight_decay)
        else:
            g = g + hyper.weight_decay * p
        m = hyper.beta1 * m + (1 - hyper.beta1) * g
        v = hyper.beta2 * v + (1 - hyper.beta2) * g**2
        m, v = _overflowed(m), _overflowed(v)
        m_hat = m / (1 - hyper.beta1**step)
        v_hat = v / (1 - hyper.beta2**step)
        p = p - hyper.lr * m_hat / (np.sqrt(v_hat) + hyper.eps)
    return p, m, v


def _overflowed(moment: Float64) -> Float64:
    rounded = FLOAT32.round(moment)
    return np.where(np.isinf(rounded), rounded, moment)


def decode_state(codes: Array, absmax: Float64, code: Float64) -> Float64:
    """An 8-bit state as numbers, unrounded: code[codes_i] × absmax[i div 256]; float64 [n]."""
    scales = spread(absmax.reshape(1, -1), codes.size, OPTIMIZER_BLOCKSIZE).reshape(-1)
    with np.errstate(invalid="ignore"):
        return codebook_8bit(code).values[codes] * scales


def adam_8bit(
    p: Float64,
    g: Float64,
    states: tuple[tuple[Array, Float64], tuple[Array, Float64]],
    code_maps: tuple[Float64, Float64],
    step: int,
    hyper: Hyper,
) -> tuple[Float64, tuple[Array, Float64], tuple[Array, Float64]]:
    """One step with 8-bit states: decode, `adam`, re-encode with a new scale for each block.

    The parameter moves by the new moments before they are quantized.
    Source: "8-bit Optimizers via Block-wise Quantization" (arXiv:2110.02861), section 2.

    Args:
        p: float64 [n], parameter.
        g: float64 [n], gradient.
        states: (codes uint8 [n], absmax float64 [ceil(n/256)]) of the first and the second moment.
        code_maps: float64 [256] for each moment: signed and unsigned dynamic map.
        step: the number of the step being taken, from 1.
        hyper: hyperparameters.

    Returns:
        The new p, unrounded, and the new states.
    """
    m, v = (
        decode_state(codes, absmax, code)
        for (codes, absmax), code in zip(states, code_maps, strict=True)
    )
    p, m, v = adam(p, g, m, v, step, hyper)
    encoded = [
        quantize_blockwise(moment.reshape(1, -1), code, OPTIMIZER_BLOCKSIZE)
        for moment, code in zip((m, v), code_maps, strict=True)
    ]
    first, second = ((codes.reshape(-1), absmax.reshape(-1)) for codes, absmax in encoded)
    return p, first, second
