"""How a 4-bit weight is stored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import kq_functional as kq
from kq_functional.codebooks import shared_table
from kq_functional.formats import NESTED_BLOCKSIZE, check_blocksize, check_quant_type
from kq_nn.stored import TensorSpec, check_sizes, header


class Format4bit(NamedTuple):
    """How the stored tensors of one 4-bit weight [out, in] are read; a `Layout`.

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
        check_sizes(self.out_features, self.in_features)

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
        """Content of `weight_format`.

        A packed row does not tell an odd in_features from the next even one, the header does.
        """
        return header(self.quant_type, self.blocksize, self.nested, self.in_features)

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantizes a weight of the right shape and type."""
        packed, state = kq.quantize_4bit(
            weight,
            blocksize=self.blocksize,
            compress_statistics=self.nested,
            quant_type=self.quant_type,
        )
        tensors = {"weight": packed}
        if state.state2 is not None and state.offset is not None:
            tensors["weight_absmax"] = state.absmax
            tensors["weight_nested_absmax"] = state.state2.absmax.view(torch.int32)
            tensors["weight_offset"] = state.offset.reshape(1).view(torch.int32)
        else:
            tensors["weight_absmax"] = state.absmax.view(torch.int32)
        return tensors

    def decode(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that the stored tensors stand for."""
        return kq.dequantize_4bit(tensors["weight"], quant_state(tensors, self, dtype))


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
