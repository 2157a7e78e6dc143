"""Right arguments of the int8 operations, by name."""

from __future__ import annotations

import numpy as np


def quant_arguments() -> dict:
    return {
        "x": np.ones((2, 64), np.float32),
        "codes": np.zeros((2, 64), np.int8),
        "absmax": np.zeros(2, np.float32),
        "outliers": np.zeros(64, np.uint8),
        "rows": 2,
        "cols": 64,
        "threshold": 6.0,
    }


def matmul_arguments() -> dict:
    return {
        "a": np.ones((2, 64), np.int8),
        "b": np.ones((3, 64), np.int8),
        "out": np.zeros((2, 3), np.int32),
        "m": 2,
        "n": 3,
        "k": 64,
    }


def mm_dequant_arguments() -> dict:
    return {
        "a": np.ones((2, 3), np.int32),
        "row_absmax": np.ones(2, np.float32),
        "col_absmax": np.ones(3, np.float32),
        "bias": None,
        "out": np.zeros((2, 3), np.float16),
        "m": 2,
        "n": 3,
    }


def linear_arguments() -> dict:
    return {
        "x": np.ones((2, 64), np.float32),
        "weight": np.ones((3, 64), np.int8),
        "absmax": np.ones(3, np.float32),
        "bias": None,
        "out": np.zeros((2, 3), np.float32),
        "m": 2,
        "n": 3,
        "k": 64,
        "threshold": 6.0,
    }
