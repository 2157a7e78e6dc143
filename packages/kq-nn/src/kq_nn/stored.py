"""The stored form of a weight: which tensors, of which shape and type, and what they mean.

A quantized weight travels through state dicts, checkpoints, sharding and casts as a handful of
plain integer tensors. Integer, because everything that casts floating-point tensors in bulk
(`Module.half`, mixed-precision policies, trainers) leaves integers alone; float32 scales are
therefore stored as their bit patterns in int32.

None of them has the name and the shape of a dense weight: a program that does not know the format
must fail to load it, and not take codes for values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kq_functional.formats import FLOAT_DTYPES, QUANT_TYPES

FORMAT_VERSION = 1
STORED_TYPES = (*QUANT_TYPES, "int8")
"""Types of codes, by their number in a header."""
STORED_NAMES = (
    *("weight", "weight_absmax", "weight_nested_absmax", "weight_offset", "weight_format"),
    *("weight_kept", "weight_kept_columns"),
)
"""What the tensors of a weight are called in a state dict, in one format or the other."""


class TensorSpec(NamedTuple):
    """Shape and dtype of one stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Layout(Protocol):
    """Everything that decides how the stored tensors of one weight [out, in] are read."""

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        ...

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        ...

    def check(self) -> None:
        """Raises ValueError or TypeError naming the first field that is out of range."""
        ...

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """The stored tensors by state-dict name; none if the weight is not quantized."""
        ...

    @property
    def header(self) -> tuple[int, ...]:
        """Content of `weight_format`, see `header`."""
        ...

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantizes a weight of the right shape and type, not on the meta device."""
        ...

    def decode(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that the stored tensors stand for."""
        ...


def header(stored_type: str, blocksize: int, nested: bool, in_features: int) -> tuple[int, ...]:
    """Content of `weight_format`: version, type of codes, block size, nested, in_features.

    in_features is there because packed rows need not tell it; out_features is the number of rows
    of `weight`. A block size of 0 stands for whole rows.
    """
    return (FORMAT_VERSION, STORED_TYPES.index(stored_type), blocksize, int(nested), in_features)


def describe_header(header: tuple[int, ...]) -> str:
    """Readable form of a `weight_format` header, which may come from a foreign or damaged file."""
    if len(header) != 5:
        return f"unreadable header {header}"
    version, type_id, blocksize, nested, in_features = header
    known = 0 <= type_id < len(STORED_TYPES)
    stored_type = STORED_TYPES[type_id] if known else f"type {type_id}?"
    blocks = f"blocksize {blocksize}" if blocksize else "one scale a row"
    scales = {0: "plain scales", 1: "double-quantized scales"}.get(nested, f"nested {nested}?")
    return f"format version {version}, {stored_type}, {blocks}, {scales}, in_features {in_features}"


def check_sizes(out_features: object, in_features: object) -> None:
    """Raises ValueError or TypeError unless both are sizes."""
    for name, size in (("out_features", out_features), ("in_features", in_features)):
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an int, got {size!r}")
        if size < 0:
            raise ValueError(f"{name} must not be negative, got {size}")


def pack(weight: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Quantizes a dense weight.

    Args:
        weight: float32, bfloat16 or float16, [out_features, in_features], on any device.
        layout: how to store it.

    Returns:
        The stored tensors by state-dict name, on the device of `weight`.

    Raises:
        ValueError: if the shape of `weight` does not fit.
        TypeError: if `weight` is of another dtype.
    """
    expected = (layout.out_features, layout.in_features)
    if tuple(weight.shape) != expected:
        raise ValueError(f"weight must have shape {expected}, got {tuple(weight.shape)}")
    if weight.dtype not in FLOAT_DTYPES:
        raise TypeError(f"weight must be float32, bfloat16 or float16, got {weight.dtype}")
    if weight.is_meta:
        return {
            name: torch.empty(spec.shape, dtype=spec.dtype, device="meta")
            for name, spec in layout.tensors.items()
        }
    tensors = layout.encode(weight.detach())
    if layout.tensors:
        tensors["weight_format"] = torch.tensor(
            layout.header, dtype=torch.int32, device=weight.device
        )
    return tensors


def mismatches(tensors: Mapping[str, Tensor], layout: Layout) -> list[str]:
    """What is wrong with stored tensors that are to be read in a layout."""
    problems = []
    for name, spec in layout.tensors.items():
        if name not in tensors:
            problems.append(f"{name} is missing")
            continue
        tensor = tensors[name]
        if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
            problems.append(
                f"{name} must be {spec.dtype} {list(spec.shape)}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
    if not layout.tensors:
        return problems
    problems += [
        f"{name} is not expected"
        for name in STORED_NAMES
        if name in tensors and name not in layout.tensors
    ]
    stored = tensors.get("weight_format")
    if stored is not None and not stored.is_meta:
        found = tuple(int(value) for value in whole(stored).flatten().tolist())
        if found != layout.header:
            problems.insert(
                0,
                f"weight_format says {describe_header(found)}, "
                f"the layer expects {describe_header(layout.header)}",
            )
    return problems


def whole(tensor: Tensor) -> Tensor:
    """All of a stored tensor, of which a DTensor may hold a part only."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full
