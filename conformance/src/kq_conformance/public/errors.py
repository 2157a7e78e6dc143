"""The table of wrong arguments, by operation and argument."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kq_conformance.public.errors_int8 import WRONG_INT8
from kq_conformance.public.samples import Invocation
from kq_conformance.public.wrong import (
    NOT_A_TENSOR,
    Rows,
    Wrong,
    elsewhere,
    other_type,
    unquantized,
    wrong,
    wrong_codes,
    wrong_dtype_of_state,
    wrong_nested,
    wrong_results,
    wrong_scales,
)
from kq_conformance.reference import RULES

__all__ = ["WRONG"]

_Forms = dict[str, Invocation]

_BLOCKSIZES_4BIT = (0, 48, -64, 8192, True, 64.0)
_BLOCKSIZES_8BIT = (0, -64, True, 64.0)
_QUANT_TYPES = ("nf5", "NF4", None)
_LAYOUTS = ("column", None)
_NOT_FINITE = (math.nan, math.inf, -math.inf, "1", None)
_NO_DECAYS = (1.0, -0.1, math.nan, "1", None)
# What else a hyperparameter of that name must not be.
_BEYOND = {
    "eps": (-1e-8,),
    "nesterov": (0.5,),
    "bias_correction": (0.5,),
    "t_alpha": (-1.0,),
    "t_beta3": (-1.0,),
    "max_unorm": (-1.0,),
    "lr_decay": (-0.1,),
}


def _tables(right: Tensor) -> list[Tensor]:
    """Codebooks of a wrong size or type."""
    return [right[:16], right.half()]


def _unusable_tables(right: Tensor) -> list[Tensor]:
    """Codebooks that an encoder cannot walk through: not ascending, or not finite."""
    tables = [right.flip(0), right.clone(), right.clone()]
    tables[1][9], tables[2][9] = math.nan, math.inf
    return tables


def _named(rows: Rows) -> Rows:
    """Rows of unusable codebooks, which look alike, with their flaws."""
    flaws = ("descending", "with NaN", "with Inf")
    return [
        row._replace(label=f"{row.label}, {flaw}") for row, flaw in zip(rows, flaws, strict=True)
    ]


def _with_first(values: list[Any], *firsts: Any) -> list[list[Any]]:
    """The list with each of these as its first entry."""
    return [[first, *values[1:]] for first in firsts]


def _quantize_4bit(forms: _Forms) -> dict[str, Rows]:
    plain, out = forms["plain"], forms["out"]
    inputs = unquantized(plain.arguments["A"])
    return {
        "A": wrong(plain, "A", *inputs) + wrong(out, "A", *inputs),
        "blocksize": wrong(plain, "blocksize", *_BLOCKSIZES_4BIT)
        + wrong(out, "blocksize", *_BLOCKSIZES_4BIT),
        "quant-type": wrong(plain, "quant_type", *_QUANT_TYPES),
        "layout": wrong(plain, "layout", *_LAYOUTS),
        "out": wrong_results(out, "out"),
        "absmax": wrong_results(out, "absmax"),
    }


def _dequantize_4bit(forms: _Forms) -> dict[str, Rows]:
    plain, out, parts = forms["plain"], forms["out"], forms["parts"]
    of_8_bits = replace(plain.arguments["quant_state"], quant_type=None)
    return {
        "A": wrong_codes(plain, "A", "packed") + wrong_codes(parts, "A", "packed"),
        "quant-state": wrong(plain, "quant_state", None, "nf4", of_8_bits),
        "absmax": wrong_scales(plain) + wrong_scales(parts) + wrong(parts, "absmax", None),
        "blocksize": wrong(parts, "blocksize", *_BLOCKSIZES_4BIT),
        "quant-type": wrong(parts, "quant_type", *_QUANT_TYPES),
        "out": wrong_results(out, "out", "dtype") + wrong(parts, "out", None, NOT_A_TENSOR),
        "dtype": wrong_dtype_of_state(plain),
        "nested": wrong_nested(forms["nested"]),
    }


def _quantize_blockwise(forms: _Forms) -> dict[str, Rows]:
    plain, out = forms["plain"], forms["out"]
    inputs, code = unquantized(plain.arguments["A"]), plain.arguments["code"]
    tables = [*_tables(code), elsewhere(code), NOT_A_TENSOR]
    return {
        "A": wrong(plain, "A", *inputs) + wrong(out, "A", *inputs),
        "code": wrong(plain, "code", *tables)
        + wrong(out, "code", *tables)
        + _named(wrong(plain, "code", *_unusable_tables(code)))
        + _named(wrong(out, "code", *_unusable_tables(code))),
        "blocksize": wrong(plain, "blocksize", *_BLOCKSIZES_8BIT)
        + wrong(out, "blocksize", *_BLOCKSIZES_8BIT),
        "layout": wrong(plain, "layout", *_LAYOUTS),
        "out": wrong_results(out, "out"),
        "absmax": wrong_results(out, "absmax"),
    }


def _dequantize_blockwise(forms: _Forms) -> dict[str, Rows]:
    plain, out, parts = forms["plain"], forms["out"], forms["parts"]
    code = parts.arguments["code"]
    of_4_bits = replace(plain.arguments["quant_state"], quant_type="nf4", blocksize=64)
    return {
        "A": wrong_codes(plain, "A", "codes"),
        "quant-state": wrong(plain, "quant_state", None, "8bit", of_4_bits),
        "absmax": wrong_scales(plain) + wrong_scales(parts) + wrong(parts, "absmax", None),
        "code": wrong(parts, "code", *_tables(code), elsewhere(code), NOT_A_TENSOR),
        "blocksize": wrong(parts, "blocksize", *_BLOCKSIZES_8BIT),
        "out": wrong_results(out, "out", "dtype") + wrong_results(parts, "out", "dtype"),
        "dtype": wrong_dtype_of_state(plain),
    }


def _linear_4bit(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    x, packed, state, bias = plain.arguments.values()
    of_8_bits, cube = replace(state, quant_type=None), replace(state, shape=torch.Size((2, 3, 70)))
    biases = (bias[:5], bias[:, None], bias[None], other_type(bias), bias.int(), elsewhere(bias))
    return {
        "x": wrong(plain, "x", *unquantized(x), x[:, 1:], x[0, 0]),
        "packed": wrong_codes(plain, "packed") + wrong(plain, "packed", elsewhere(packed)),
        "quant-state": wrong(plain, "quant_state", None, "nf4", of_8_bits)
        + wrong(plain, "quant_state", cube, also=("shape",)),
        "absmax": wrong_scales(plain),
        "bias": wrong(plain, "bias", *biases, NOT_A_TENSOR),
        "nested": wrong_nested(forms["nested"]),
    }


def _linear_4bit_backward(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    grad, absmax = plain.arguments["grad"], plain.arguments["absmax"]
    # The registered op itself: torch refuses arguments of another Python type with RuntimeError.
    return {
        "grad": wrong(plain, "grad", grad[:, 1:], grad[0, 0], grad.double(), grad.int()),
        "packed": wrong_codes(plain, "packed")[:2]
        + wrong(plain, "packed", elsewhere(plain.arguments["packed"])),
        "absmax": wrong(plain, "absmax", absmax[1:], absmax.half(), elsewhere(absmax)),
        "shape": wrong(plain, "shape", [420], [2, 3, 70]),
        "blocksize": wrong(plain, "blocksize", *_BLOCKSIZES_4BIT[:4]),
        "quant-type": wrong(plain, "quant_type", *_QUANT_TYPES[:2]),
        "layout": wrong(plain, "layout", *_LAYOUTS[:1]),
    }


def _linear_4bit_grouped(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    x, packed, state, _, bias = plain.arguments.values()
    of_8_bits, flat = replace(state, quant_type=None), replace(state, shape=torch.Size((18, 70)))
    biases = (bias[:2], bias.flatten(), other_type(bias), bias.int(), elsewhere(bias))
    lists = ([2, 3], [2, 0, 2], [-1, 3, 3], [2.0, 0, 3], [2**63, 0, 0], 5, None)
    return {
        "x": wrong(plain, "x", *unquantized(x), x[:, 1:], x[0], x[None]),
        "packed": wrong_codes(plain, "packed") + wrong(plain, "packed", elsewhere(packed)),
        "quant-state": wrong(plain, "quant_state", None, "nf4", of_8_bits)
        + wrong(plain, "quant_state", flat, also=("shape",)),
        "absmax": wrong_scales(plain),
        "counts": wrong(plain, "counts", *lists) + _counts(forms["counted"]),
        "bias": wrong(plain, "bias", *biases, NOT_A_TENSOR),
        "nested": wrong_nested(forms["nested"]),
    }


def _linear_4bit_grouped_backward(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    grad, absmax = plain.arguments["grad"], plain.arguments["absmax"]
    # As above: the registered op itself.
    return {
        "grad": wrong(plain, "grad", grad[:, 1:], grad[0], grad.double(), grad.int()),
        "packed": wrong_codes(plain, "packed")[:2]
        + wrong(plain, "packed", elsewhere(plain.arguments["packed"])),
        "absmax": wrong(plain, "absmax", absmax[1:], absmax.half(), elsewhere(absmax)),
        "counts": _counts(plain),
        "shape": wrong(plain, "shape", [18, 70]),
        "blocksize": wrong(plain, "blocksize", *_BLOCKSIZES_4BIT[:4]),
        "quant-type": wrong(plain, "quant_type", *_QUANT_TYPES[:2]),
        "layout": wrong(plain, "layout", *_LAYOUTS[:1]),
    }


def _counts(call: Invocation) -> Rows:
    """Row counts in a tensor of a wrong type, shape, device or sum."""
    right = call.arguments["counts"]
    values = (right.float(), right.bool(), right[1:], right[None], elsewhere(right), right + 1)
    return wrong(call, "counts", *values, right - 1)


def _step(plain: Invocation) -> dict[str, Rows]:
    """What both optimizer steps refuse."""
    params, grads, steps = (plain.arguments[name] for name in ("params", "grads", "steps"))
    wide = plain.having(grads=[each.double() for each in grads])
    firsts = (grads[0][1:], other_type(grads[0]), elsewhere(grads[0]), None)
    complex_ = [each.to(torch.complex64) for each in params]
    sparse = _with_first(grads, grads[0].to_sparse())
    return {
        "rule": wrong(plain, "rule", "nadam", None),
        "params": wrong(wide, "params", [each.double() for each in params])
        + wrong(plain, "params", params[0], [NOT_A_TENSOR, params[1]])
        + wrong(plain.having(grads=complex_), "params", complex_),
        "grads": wrong(plain, "grads", grads[:1], *_with_first(grads, *firsts), *sparse),
        "steps": wrong(plain, "steps", steps[:1], *_with_first(steps, 0, -1, 1.5), 3),
        "lr": wrong(plain, "lr", *_NOT_FINITE),
        "weight-decay": wrong(plain, "weight_decay", *_NOT_FINITE),
        "decoupled": wrong(plain, "decoupled", "yes", None)
        + wrong(_of_rule(plain, "lars"), "decoupled", True)
        + wrong(_of_rule(plain, "lars_clipped"), "decoupled", True),
        "maximize": wrong(plain, "maximize", "yes", None),
        "grad-scale": wrong(plain, "grad_scale", 0.0, -1.0, *_NOT_FINITE),
        **_roundings(plain),
        "hyper": [row for rule in RULES for row in _hyper(plain, rule)],
    }


def _of_rule(plain: Invocation, rule: str) -> Invocation:
    """A call with another rule: with its hyperparameters, and as many of Adam's states."""
    adam, other = RULES["adam"], RULES[rule]
    kept = {name: value for name, value in plain.arguments.items() if name not in adam.usual}
    states = len(other.signed)
    for name in ("codes", "absmax", "states"):
        if name in kept:
            kept[name] = (kept[name] + kept[name])[: states * len(kept["params"])]
    if "code_maps" in kept:
        kept["code_maps"] = (kept["code_maps"] + kept["code_maps"])[:states]
    decoupled = {"decoupled": other.decouples}
    return Invocation(plain.function, kept | {"rule": rule} | decoupled | dict(other.usual))


def _hyper(plain: Invocation, rule: str) -> Rows:
    """Hyperparameters that are none of the rule's, are missing, or are no numbers."""
    call = _of_rule(plain, rule)
    if "codes" in plain.arguments and not RULES[rule].signed:
        return []
    rows = wrong(call, "coolness", 1.0)
    for name in RULES[rule].usual:
        rest = {key: value for key, value in call.arguments.items() if key != name}
        rows.append(Wrong(f"{name} = (left out)", Invocation(call.function, rest), (name,)))
        values = _NO_DECAYS if name.startswith("beta") else (*_NOT_FINITE, *_BEYOND.get(name, ()))
        rows += wrong(call, name, *values)
    return [row._replace(label=f"{rule}: {row.label}") for row in rows]


def _roundings(plain: Invocation) -> dict[str, Rows]:
    """Roundings with what they do not fit to."""
    params, grads = ([each.bfloat16() for each in plain.arguments[n]] for n in ("params", "grads"))
    half = plain.having(params=params, grads=grads)
    right = [torch.zeros_like(each, dtype=torch.int8) for each in params]
    seeds = [1, 2]
    stochastic = half.having(rounding="stochastic", seeds=seeds)
    corrected = half.having(rounding="corrected", corrections=right)
    firsts = (right[0][1:], right[0].to(torch.uint8), right[0].repeat(2)[::2], elsewhere(right[0]))
    rows = wrong(plain, "rounding", "upward", None)
    if plain.arguments["params"][0].dtype is not torch.bfloat16:
        rows += wrong(plain.having(seeds=seeds), "rounding", "stochastic")
        matching = plain.having(corrections=right)
        rows += wrong(matching, "rounding", "corrected")
    return {
        "rounding": rows,
        "corrections": wrong(half, "corrections", right)
        + wrong(corrected, "corrections", [], right[:1], right[0], *_with_first(right, *firsts)),
        "seeds": wrong(half, "seeds", seeds)
        + wrong(stochastic, "seeds", [], seeds[:1], 1, [1, 0.5], [1, 2**63], [-(2**63) - 1, 1]),
    }


def _list(plain: Invocation, argument: str) -> Rows:
    """Lists of states that are too few, or whose first has a wrong size, type or device."""
    right = plain.arguments[argument]
    twice = right[0].repeat(2)
    firsts = (twice, twice[::2], right[0].int(), elsewhere(right[0]))
    return wrong(plain, argument, right[:1], *_with_first(right, *firsts))


def _optimizer_step_8bit(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    maps = plain.arguments["code_maps"]
    firsts = (*_tables(maps[0]), NOT_A_TENSOR)
    unusable = _with_first(maps, *_unusable_tables(maps[0]))
    found = _step(plain)
    found["rule"] += wrong(_of_rule(plain, "sgd"), "rule", "sgd")
    return found | {
        "codes": _list(plain, "codes"),
        "absmax": _list(plain, "absmax"),
        "code-maps": wrong(plain, "code_maps", maps[:1], *_with_first(maps, *firsts))
        + _named(wrong(plain, "code_maps", *unusable)),
    }


def _optimizer_step_32bit(forms: _Forms) -> dict[str, Rows]:
    plain = forms["plain"]
    return _step(plain) | {"states": _list(plain, "states")}


WRONG: dict[str, Callable[[_Forms], dict[str, Rows]]] = {
    "quantize_4bit": _quantize_4bit,
    "dequantize_4bit": _dequantize_4bit,
    "quantize_blockwise": _quantize_blockwise,
    "dequantize_blockwise": _dequantize_blockwise,
    "linear_4bit": _linear_4bit,
    "linear_4bit_backward": _linear_4bit_backward,
    "linear_4bit_grouped": _linear_4bit_grouped,
    "linear_4bit_grouped_backward": _linear_4bit_grouped_backward,
    **WRONG_INT8,
    "optimizer_step_8bit": _optimizer_step_8bit,
    "optimizer_step_32bit": _optimizer_step_32bit,
}
"""By operation: the rows of each argument, from the valid forms of a call."""
