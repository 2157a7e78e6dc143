"""Rows of wrong calls: a valid one with one argument changed."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kq_functional as kq
from kq_conformance.public.samples import Invocation

__all__ = [
    "NOT_A_TENSOR",
    "Rows",
    "Wrong",
    "elsewhere",
    "other_type",
    "unquantized",
    "wrong",
    "wrong_codes",
    "wrong_dtype_of_state",
    "wrong_nested",
    "wrong_results",
    "wrong_scales",
]

NOT_A_TENSOR = [1.0]


class Wrong(NamedTuple):
    """A call with one wrong argument.

    Attributes:
        label: what is wrong.
        call: the call.
        names: the message must hold one of them, as a word.
    """

    label: str
    call: Invocation
    names: tuple[str, ...]


Rows = list[Wrong]


def wrong(call: Invocation, argument: str, *values: Any, also: tuple[str, ...] = ()) -> Rows:
    """The call with each of these values for an argument; `also` are other names for it."""
    return [
        Wrong(_label(argument, value), call.having(**{argument: value}), (argument, *also))
        for value in values
    ]


def _label(argument: str, value: Any) -> str:
    return f"{argument} = {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = f"{value.dtype} {list(value.shape)} on {value.device.type}".removeprefix("torch.")
        return kind if value.is_contiguous() else f"{kind} with strides {value.stride()}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return "a QuantState" if isinstance(value, kq.QuantState) else repr(value)


def elsewhere(tensor: Tensor) -> Tensor:
    """The tensor on a device that is not that of the others."""
    return tensor.to("meta")


def other_type(tensor: Tensor) -> Tensor:
    """The tensor in a floating-point type that the functions know, but not the expected one."""
    return tensor.half() if tensor.dtype is torch.float32 else tensor.float()


def unquantized(right: Tensor) -> tuple[Any, ...]:
    """Unquantized tensors of types that no function knows."""
    return right.double(), right.int(), right.bool(), None, NOT_A_TENSOR


def wrong_results(call: Invocation, argument: str, *also: str) -> Rows:
    """Tensors [R, C] to which a result cannot be written: shape, strides, type, device."""
    right = call.arguments[argument]
    values = (
        right[:, 1:].contiguous(),
        right.flatten(),
        right.t().contiguous().t(),
        right.to(torch.int32),
        elsewhere(right),
        NOT_A_TENSOR,
    )
    return wrong(call, argument, *values, also=also)


def wrong_codes(call: Invocation, argument: str, *also: str) -> Rows:
    """Codes [R, C] of a wrong type or size."""
    codes = call.arguments[argument]
    return wrong(call, argument, codes.float(), codes[:, 1:], NOT_A_TENSOR, also=also)


def wrong_scales(call: Invocation) -> Rows:
    """Plain scales, in a state or as an argument, of a wrong type, size or device."""
    if "absmax" in call.arguments:
        right = call.arguments["absmax"]
        return wrong(call, "absmax", right.half(), right[1:], elsewhere(right), NOT_A_TENSOR)
    state = call.arguments["quant_state"]
    values = (state.absmax.half(), state.absmax[1:], elsewhere(state.absmax))
    return [_of_state(call, "absmax", each, replace(state, absmax=each)) for each in values]


def wrong_nested(call: Invocation) -> Rows:
    """Double-quantized scales: parts of a wrong type or size, and parts that are missing."""
    state = call.arguments["quant_state"]
    inner = state.state2
    rows = [
        *(
            _of_state(call, "absmax", each, replace(state, absmax=each))
            for each in (state.absmax.float(), state.absmax[1:])
        ),
        *(
            _of_state(
                call, "nested_absmax", each, replace(state, state2=replace(inner, absmax=each))
            )
            for each in (inner.absmax.half(), inner.absmax.expand(2))
        ),
        *(
            _of_state(call, "nested_code", each, replace(state, state2=replace(inner, code=each)))
            for each in (inner.code.half(), inner.code[:16])
        ),
        *(
            _of_state(call, "offset", each, replace(state, offset=each))
            for each in (state.offset.half(), state.offset.expand(2))
        ),
    ]
    incomplete = Invocation(lambda state, **changes: replace(state, **changes), {"state": state})
    return rows + wrong(incomplete, "offset", None) + wrong(incomplete, "state2", None)


def wrong_dtype_of_state(call: Invocation) -> Rows:
    """A state of numbers that no function knows."""
    state = call.arguments["quant_state"]
    return [_of_state(call, "dtype", torch.float64, replace(state, dtype=torch.float64))]


def _of_state(call: Invocation, part: str, value: Any, state: kq.QuantState) -> Wrong:
    return Wrong(_label(part, value), call.having(quant_state=state), (part,))
