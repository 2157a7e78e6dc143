"""How an int8 weight is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import kq_functional as kq
from kq_nn.stored import TensorSpec, check_sizes, header


class Format8bit(NamedTuple):
    """How the stored tensors of one int8 weight [out, in] are read; a `Layout`.

    The codes have a third dimension of size 1: int8 [out, in] is what a dense layer would take
    for its weight, and convert to numbers a hundred times too large, in silence.

    Attributes:
        out_features: rows of the weight, each with a scale of its own.
        in_features: columns of the weight.
        kept_columns: for how many of them what rounding took is stored too.
    """

    out_features: int
    in_features: int
    kept_columns: int = 0

    def check(self) -> None:
        """Raises ValueError or TypeError naming the first field that is out of range."""
        check_sizes(self.out_features, self.in_features)
        kept = self.kept_columns
        if isinstance(kept, bool) or not isinstance(kept, int):
            raise TypeError(f"kept_columns must be an int, got {kept!r}")
        if not 0 <= kept <= self.in_features:
            raise ValueError(f"kept_columns must be 0 to {self.in_features}, got {kept}")

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """The stored tensors by state-dict name.

        The codes come last: accelerate, which fills offloaded layers one tensor after the other,
        moves all of a layer named Linear8bitLt as soon as `weight` is on a GPU.
        """
        rows, kept = self.out_features, self.kept_columns
        residual = {
            "weight_kept": TensorSpec((rows, kept), torch.int16),
            "weight_kept_columns": TensorSpec((kept,), torch.int32),
        }
        return {
            "weight_absmax": TensorSpec((rows,), torch.int32),
            "weight_format": TensorSpec((5,), torch.int32),
            **(residual if kept else {}),
            "weight": TensorSpec((rows, self.in_features, 1), torch.int8),
        }

    @property
    def header(self) -> tuple[int, ...]:
        """Content of `weight_format`."""
        return header("int8", 0, False, self.in_features)

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Quantizes a weight of the right shape and type, all but what is kept of columns."""
        codes, absmax, _ = kq.int8_vectorwise_quant(weight)
        return stored(codes, absmax)

    def decode(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The weight [out, in] that the stored tensors stand for."""
        absmax = tensors["weight_absmax"].view(torch.float32)
        codes = tensors["weight"].squeeze(-1)
        if not self.kept_columns:
            return kq.int8_vectorwise_dequant(codes, absmax, dtype)
        weight = kq.int8_vectorwise_dequant(codes, absmax)
        columns, lost = kept(tensors)
        return weight.index_add_(1, columns, lost.float()).to(dtype)


def stored(codes: Tensor, absmax: Tensor) -> dict[str, Tensor]:
    """The form in which codes int8 [out, in] and absmax float32 [out] are stored."""
    return {"weight": codes.unsqueeze(-1), "weight_absmax": absmax.view(torch.int32)}


def kept(tensors: Mapping[str, Tensor]) -> kq.KeptColumns:
    """What stored tensors say was lost of some columns, without a copy."""
    # Bits in an integer type are left alone by casts of a model.
    return kq.KeptColumns(
        tensors["weight_kept_columns"], tensors["weight_kept"].view(torch.bfloat16)
    )


def stored_kept(kept: kq.KeptColumns) -> dict[str, Tensor]:
    """The form in which kept columns are stored."""
    return {
        "weight_kept": kept.lost.view(torch.int16),
        "weight_kept_columns": kept.columns,
    }


class FloatWeight(NamedTuple):
    """The layout of a weight that is not stored quantized, but as an ordinary parameter.

    Attributes:
        out_features: rows of the weight.
        in_features: columns of the weight.
        dtype: float32, bfloat16 or float16.
    """

    out_features: int
    in_features: int
    dtype: torch.dtype

    def check(self) -> None:
        """Raises ValueError or TypeError naming the first field that is out of range."""
        check_sizes(self.out_features, self.in_features)

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """Nothing is stored quantized."""
        return {}

    @property
    def header(self) -> tuple[int, ...]:
        """There is none."""
        return ()

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """The weight in the dtype of the parameter."""
        return {"weight": weight.to(self.dtype)}

    def decode(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """A copy of the weight."""
        return tensors["weight"].detach().to(dtype, copy=True)
