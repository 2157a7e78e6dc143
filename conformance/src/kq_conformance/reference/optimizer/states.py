"""What becomes of states: they are float32 numbers."""

import numpy as np

from kq_conformance.floats import FLOAT32, Float64

__all__ = ["States", "decayed", "norm", "stored"]

States = tuple[Float64, ...]


def stored(state: Float64) -> Float64:
    """A state as it can be kept: beyond the largest float32 it is infinite; not rounded else."""
    rounded = FLOAT32.round(state)
    return np.where(np.isinf(rounded), rounded, state)


def decayed(state: Float64, new: Float64, beta: float) -> Float64:
    """βx + (1 − β)y."""
    return stored(beta * state + (1 - beta) * new)


def norm(x: Float64) -> np.float64:
    """‖x‖₂."""
    return np.float64(np.sqrt(np.sum(x**2)))
