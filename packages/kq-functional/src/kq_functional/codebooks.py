"""Codebooks: the values that codes stand for.

The tables are computed in a way that gives the same bits on every machine: float32 arithmetic is
emulated by rounding double results, which is exact for +, −, ×, ÷ and, at these sizes, for a fused
multiply-add of float32 operands.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

from .formats import check_quant_type

_NF4_BITS = (
    "bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000 "
    "3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000"
)
# 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4; bit 3 of a code is the sign, so code 8 is a second zero.
_FP4_MAGNITUDES = "00000000 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000"


def _float32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _from_bits(words: str) -> list[float]:
    return [struct.unpack(">f", bytes.fromhex(word))[0] for word in words.split()]


def _table(values: list[float]) -> Tensor:
    # The device is named because an import may happen inside `with torch.device("meta")`.
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def _padded(values: list[float]) -> Tensor:
    return _table(sorted(values + [0.0] * (256 - len(values))))


def _linspace(start: float, end: float, count: int) -> list[float]:
    """Return `count` evenly spaced float32 values, each half measured from its own end.

    This is the arithmetic of torch.linspace on a CPU with fused multiply-add, so that maps equal
    the ones in existing checkpoints to the bit.
    """
    start, end = _float32(start), _float32(end)
    step = _float32(_float32(end - start) / (count - 1))
    return [
        _float32(start + step * i) if i < count // 2 else _float32(end - step * (count - 1 - i))
        for i in range(count)
    ]


def _check_bits(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, got {value}")


def create_dynamic_map(
    signed: bool = True, max_exponent_bits: int = 7, total_bits: int = 8
) -> Tensor:
    """Return the dynamic (tree) quantization map: more fraction bits for larger magnitudes.

    Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2021), section 2.1.
    Decade i holds 2^(i + b − E) midpoints of an even grid on [0.1, 1] times 10^(i − E + 1), with
    b = total_bits − 1 and E = max_exponent_bits; an unsigned map has twice as many.

    Args:
        signed: Whether the map has negative values.
        max_exponent_bits: Number of decades, 1..total_bits − 1.
        total_bits: Number of bits of a code, 2..8; unused entries are zeros.

    Returns:
        float32 [256] on CPU, ascending, within [−1, 1].

    Raises:
        ValueError: A number of bits is out of range.
    """
    _check_bits("total_bits", total_bits, 2, 8)
    _check_bits("max_exponent_bits", max_exponent_bits, 1, total_bits - 1)
    fraction_bits = total_bits - 1 - max_exponent_bits
    counts = [2 ** (decade + fraction_bits + (not signed)) for decade in range(max_exponent_bits)]
    decades = list(enumerate(counts))
    if fraction_bits:
        # The codes left over when there are fewer decades than bits refine the top decade.
        decades.append((max_exponent_bits - 1, 2**fraction_bits - 1))
    values = [0.0, 1.0]
    for decade, count in decades:
        scale = _float32(10.0 ** (decade - max_exponent_bits + 1))
        edges = _linspace(0.1, 1.0, count + 1)
        for low, high in pairwise(edges):
            value = _float32(scale * (_float32(low + high) / 2))
            values += [value, -value] if signed else [value]
    return _padded(values)


def create_linear_map(signed: bool = True, total_bits: int = 8, add_zero: bool = True) -> Tensor:
    """Return evenly spaced values on [−1, 1], or on [0, 1] if not signed.

    Args:
        signed: Whether the map has negative values.
        total_bits: Number of bits of a code, 2..8; unused entries are zeros.
        add_zero: Give up one level of a signed 8-bit map, so that 0 is exact. With fewer bits
            that is always done.

    Returns:
        float32 [256] on CPU, ascending.

    Raises:
        ValueError: total_bits is out of range.
    """
    _check_bits("total_bits", total_bits, 2, 8)
    levels = 2**total_bits
    if signed and (add_zero or total_bits < 8):
        levels -= 1
    return _padded(_linspace(-1.0 if signed else 0.0, 1.0, levels))


def create_normal_map(offset: float = 0.9677083, use_extra_value: bool = True) -> Tensor:
    """Return quantiles of the normal distribution, scaled to a largest value of 1.

    Source: Dettmers et al., "QLoRA" (2023), section 3; NF4 is this map with its defaults, rounded.

    Args:
        offset: Probability of the outermost quantile, in (0.5, 1).
        use_extra_value: Eight positive values instead of seven, beside seven negative ones.

    Returns:
        float32 [256] on CPU, ascending; entries beyond the 14 or 15 non-zero ones are zeros.

    Raises:
        ValueError: offset is not inside (0.5, 1).
    """
    if not 0.5 < offset < 1:
        raise ValueError(f"offset must be between 0.5 and 1, got {offset}")
    quantile = NormalDist().inv_cdf
    positive = [quantile(p) for p in _linspace(offset, 0.5, 9 if use_extra_value else 8)[:-1]]
    negative = [-quantile(p) for p in _linspace(offset, 0.5, 8)[:-1]]
    largest = positive[0]
    return _padded([value / largest for value in positive + negative])


_FP4_VALUES = _from_bits(_FP4_MAGNITUDES)
_TABLES: dict[str, Tensor] = {
    "nf4": _table(_from_bits(_NF4_BITS)),
    # 0.0 - value, not -value: code 8 is +0.0
    "fp4": _table(_FP4_VALUES + [0.0 - value for value in _FP4_VALUES]),
    "dynamic": create_dynamic_map(signed=True),
}
_ON_DEVICE: dict[tuple[str, torch.device], Tensor] = {}


def shared_table(name: str, device: torch.device) -> Tensor:
    """Return the one shared, read-only copy of "nf4", "fp4" or "dynamic" on `device`."""
    if device.type == "cpu":
        return _TABLES[name]
    if torch.compiler.is_compiling():
        return _TABLES[name].to(device)
    key = (name, device)
    table = _ON_DEVICE.get(key)
    if table is None:
        table = _ON_DEVICE[key] = _TABLES[name].to(device)
    return table


def is_shared_table(code: Tensor) -> bool:
    """Return whether `code` is one of the shared tables, which are known to be sorted."""
    return code is _TABLES["dynamic"] or code is _ON_DEVICE.get(("dynamic", code.device))


def get_4bit_type(typename: str, device: torch.device | str | None = None) -> Tensor:
    """Return a fresh copy of a 4-bit codebook: entry i is the value of code i.

    Args:
        typename: "nf4" or "fp4".
        device: Where the result goes; CPU by default.

    Returns:
        float32 [16]. NF4 is ascending; FP4 is ordered by its bits (sign, magnitude).

    Raises:
        ValueError: Unknown typename.
    """
    check_quant_type(typename)
    return _TABLES[typename].to(device if device is not None else "cpu", copy=True)
