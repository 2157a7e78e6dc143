"""The stored form of a 4-bit weight: which tensors, of which shape and type, and what they mean.

A quantized weight travels through state dicts, checkpoints, sharding and casts as a handful of
plain integer tensors. Integer, because everything that casts floating-point tensors in bulk
(`Module.half`, mixed-precision policies, trainers) leaves integers alone; float32 scales are
therefore stored as their bit patterns in int32.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import kq_functional as kq
from kq_functional.codebooks import shared_table
from kq_functional.formats import (
    FLOAT_DTYPES,
    NESTED_BLOCKSIZE,
    QUANT_TYPES,
    check_blocksize,
    check_quant_type,
)

FORMAT_VERSION = 1


class TensorSpec(NamedTuple):
    """Shape and dtype of one stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Format4bit(NamedTuple):
    """Everything that decides how the stored tensors of one weight [out, in] are read.

    Attributes:
        quant_type: "nf4" or "fp4".
        blocksize: elements of a row that share one absmax: a power of two from 32 to 4096.
        nested: whether absmax itself is quantized to 8 bits (double quantization).
        out_features: rows of the weight.
        in_features: columns of the weight; blocks run along a row and never cross it.
    """

    quant_type: str
    blocksize: int
    nested: bool
    out_features: int
    in_features: int

    def check(self) -> None:
        """Raises ValueError or TypeError naming the first field that is out of range."""
        check_quant_type(self.quant_type)
        check_blocksize(self.blocksize, four_bit=True)
        if not isinstance(self.nested, bool):
            raise TypeError(f"compress_statistics must be a bool, got {self.nested!r}")
        for name in ("out_features", "in_features"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name} must be an int, got {size!r}")
            if size < 0:
                raise ValueError(f"{name} must not be negative, got {size}")

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """The stored tensors by state-dict name."""
        row_blocks = -(-self.in_features // self.blocksize)
        specs = {"weight": TensorSpec((self.out_features, -(-self.in_features // 2)), torch.uint8)}
        if self.nested:
            nested_blocks = -(-self.out_features * row_blocks // NESTED_BLOCKSIZE)
            specs["weight_absmax"] = TensorSpec((self.out_features, row_blocks), torch.uint8)
            specs["weight_nested_absmax"] = TensorSpec((nested_blocks,), torch.int32)
            specs["weight_offset"] = TensorSpec((1,), torch.int32)
        else:
            specs["weight_absmax"] = TensorSpec((self.out_features, row_blocks), torch.int32)
        specs["weight_format"] = TensorSpec((5,), torch.int32)
        return specs

    @property
    def header(self) -> tuple[int, ...]:
        """Content of `weight_format`: version, quant type, blocksize, nested, in_features.

        in_features is there because a packed row does not tell an odd length from the next even
        one; out_features is the number of rows of `weight`.
        """
        return (
            FORMAT_VERSION,
            QUANT_TYPES.index(self.quant_type),
            self.blocksize,
            int(self.nested),
            self.in_features,
        )


def describe_header(header: tuple[int, ...]) -> str:
    """Readable form of a `weight_format` header, which may come from a foreign or damaged file."""
    if len(header) != 5:
        return f"unreadable header {header}"
    version, type_id, blocksize, nested, in_features = header
    quant_type = QUANT_TYPES[type_id] if 0 <= type_id < len(QUANT_TYPES) else f"type {type_id}?"
    scales = {0: "plain scales", 1: "double-quantized scales"}.get(nested, f"nested {nested}?")
    return (
        f"format version {version}, {quant_type}, blocksize {blocksize}, {scales}, "
        f"in_features {in_features}"
    )


def pack(weight: Tensor, layout: Format4bit) -> dict[str, Tensor]:
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
    packed, state = kq.quantize_4bit(
        weight.detach(),
        blocksize=layout.blocksize,
        compress_statistics=layout.nested,
        quant_type=layout.quant_type,
    )
    tensors = {"weight": packed}
    if state.state2 is not None and state.offset is not None:
        tensors["weight_absmax"] = state.absmax
        tensors["weight_nested_absmax"] = state.state2.absmax.view(torch.int32)
        tensors["weight_offset"] = state.offset.reshape(1).view(torch.int32)
    else:
        tensors["weight_absmax"] = state.absmax.view(torch.int32)
    tensors["weight_format"] = torch.tensor(layout.header, dtype=torch.int32, device=weight.device)
    return tensors


def stored_scales(tensors: Mapping[str, Tensor], nested: bool) -> kq.Scales:
    """Collects the scales as they are stored: those that are float32 as int32 with the same bits.

    Args:
        tensors: the stored tensors by state-dict name, all on one device.
        nested: whether they are double quantized.
    """
    absmax = tensors["weight_absmax"]
    if not nested:
        return kq.Scales(absmax)
    return kq.Scales(
        absmax,
        tensors["weight_nested_absmax"],
        shared_table("dynamic", absmax.device),
        tensors["weight_offset"],
    )


def quant_state(
    tensors: Mapping[str, Tensor], layout: Format4bit, dtype: torch.dtype
) -> kq.QuantState:
    """Views the stored tensors as the record that kq_functional works with; copies nothing.

    Args:
        tensors: the stored tensors by state-dict name, all on one device.
        layout: how they were stored.
        dtype: dtype that dequantizing is to return.
    """
    scales = stored_scales(tensors, layout.nested).with_floats()
    absmax, nested_absmax, nested_code, offset = scales
    state = partial(
        kq.QuantState,
        absmax=absmax,
        shape=torch.Size((layout.out_features, layout.in_features)),
        dtype=dtype,
        blocksize=layout.blocksize,
        quant_type=layout.quant_type,
        code=shared_table(layout.quant_type, absmax.device),
    )
    if nested_absmax is None or nested_code is None or offset is None:
        return state()
    nested = kq.QuantState(
        absmax=nested_absmax,
        shape=absmax.shape,
        dtype=torch.float32,
        blocksize=NESTED_BLOCKSIZE,
        quant_type=None,
        code=nested_code,
        layout="flat",
    )
    return state(offset=offset.reshape(()), state2=nested)
