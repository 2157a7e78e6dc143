"""The table of wrong arguments of the int8 functions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kq_conformance.public.samples import Invocation
from kq_conformance.public.wrong import (
    NOT_A_TENSOR,
    Rows,
    Wrong,
    elsewhere,
    other_type,
    unquantized,
    wrong,
)
from kq_conformance.reference import INT8_MAX_COLS

__all__ = ["WRONG_INT8"]

_Forms = dict[str, Invocation]

_THRESHOLDS = (-1.0, math.nan, math.inf, -math.inf, "6", None, True)
_DTYPES = (torch.float64, torch.int8, None, "float32")


def _scales(call: Invocation, argument: str) -> Rows:
    """Scales of a wrong type, shape or device."""
    right = call.arguments[argument]
    values = (right.half(), right[1:], right[:, None], elsewhere(right))
    return wrong(call, argument, *values)


def _codes(right: Tensor) -> list[Tensor]:
    """Codes of a wrong type."""
    return [right.float(), right.to(torch.uint8), right.to(torch.int32)]


def _bias(call: Invocation) -> Rows:
    bias = call.arguments["bias"]
    values = (bias[1:], bias[:, None], other_type(bias), bias.int(), elsewhere(bias))
    return wrong(call, "bias", *values, NOT_A_TENSOR)


def _too_long(call: Invocation, first: str, second: str) -> Rows:
    """A sum of more products than an int32 is sure to hold."""
    factors = {name: call.arguments[name] for name in (first, second)}
    longer = {
        name: each.new_zeros(each.shape[0], INT8_MAX_COLS + 1) for name, each in factors.items()
    }
    return [Wrong(f"K = {INT8_MAX_COLS + 1}", call.having(**longer), (str(INT8_MAX_COLS),))]


def _quant(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    A = plain.arguments["A"]
    return {
        "A": wrong(plain, "A", *unquantized(A), A[0, 0]),
        "threshold": wrong(plain, "threshold", *_THRESHOLDS),
    }


def _dequant(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    codes = plain.arguments["codes"]
    return {
        "codes": wrong(plain, "codes", *_codes(codes), codes[0, 0], NOT_A_TENSOR)
        + wrong(plain, "codes", codes[1:], also=("absmax",)),
        "absmax": _scales(plain, "absmax") + wrong(plain, "absmax", NOT_A_TENSOR, None),
        "dtype": wrong(plain, "dtype", *_DTYPES),
    }


def _matmul(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    A, B = plain.arguments.values()
    return {
        "A": wrong(plain, "A", *_codes(A), A[0, 0], NOT_A_TENSOR)
        + wrong(plain, "A", A[:, 1:], also=("B",)),
        "B": wrong(plain, "B", *_codes(B), B[:, 1:], B[0], elsewhere(B), NOT_A_TENSOR),
        "K": _too_long(plain, "A", "B"),
    }


def _mm_dequant(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    A = plain.arguments["A"]
    others: tuple[Any, ...] = (A.float(), A.to(torch.int8), A.long(), A[0, 0], NOT_A_TENSOR)
    return {
        "A": wrong(plain, "A", *others),
        "row-absmax": _scales(plain, "row_absmax") + wrong(plain, "row_absmax", NOT_A_TENSOR),
        "col-absmax": _scales(plain, "col_absmax") + wrong(plain, "col_absmax", NOT_A_TENSOR),
        "bias": _bias(plain),
        "dtype": wrong(plain, "dtype", *_DTYPES),
    }


def _linear(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    x, weight = plain.arguments["x"], plain.arguments["weight"]
    weights = (*_codes(weight), weight[0], elsewhere(weight), NOT_A_TENSOR)
    return {
        "x": wrong(plain, "x", *unquantized(x), x[:, 1:], x[0, 0]),
        "weight": wrong(plain, "weight", *weights)
        + wrong(plain, "weight", weight[:, 1:], also=("x",)),
        "absmax": _scales(plain, "absmax") + wrong(plain, "absmax", NOT_A_TENSOR, None),
        "bias": _bias(plain),
        "threshold": wrong(plain, "threshold", *_THRESHOLDS),
        "K": _too_long(plain, "x", "weight"),
    }


def _linear_backward(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    grad, weight = plain.arguments["grad"], plain.arguments["weight"]
    # The registered op itself: torch refuses arguments of another Python type with RuntimeError.
    return {
        "grad": wrong(plain, "grad", grad[:, 1:], grad[0, 0], grad.double(), grad.int()),
        "weight": wrong(plain, "weight", *_codes(weight), elsewhere(weight)),
        "absmax": _scales(plain, "absmax"),
    }


WRONG_INT8: dict[str, Callable[[_Forms], dict[str, Rows]]] = {
    "int8_vectorwise_quant": _quant,
    "int8_vectorwise_dequant": _dequant,
    "int8_linear_matmul": _matmul,
    "int8_mm_dequant": _mm_dequant,
    "int8_linear": _linear,
    "int8_linear_backward": _linear_backward,
}
"""By operation: the rows of each argument, from the valid forms of a call."""
