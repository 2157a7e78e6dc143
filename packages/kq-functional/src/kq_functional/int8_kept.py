"""What rounding to int8 took from some columns of a weight, kept beside the codes.

16 bits suffice: what is lost of an element is at most 1/254 of the scale of its row, and bfloat16
errs by at most 2^-8 of that, so that the element is known to 2^-16 of the scale.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import check_tensors
from .formats import check_dtype
from .int8 import int8_vectorwise_dequant

_INDICES = (torch.int32, torch.int64)


class KeptColumns(NamedTuple):
    """What rounding took from J columns of a weight [N, K].

    Attributes:
        columns: Their indices, distinct, int32 or int64 [J].
        lost: The weight less what its codes decode to, in these columns: bfloat16 (as
            `int8_kept_columns` makes it) or another floating-point type, [N, J].
    """

    columns: Tensor
    lost: Tensor


def int8_kept_columns(
    weight: Tensor, columns: Tensor, codes: Tensor, absmax: Tensor
) -> KeptColumns:
    """Keep what rounding to int8 takes from some columns of a weight.

    Args:
        weight: float32, bfloat16 or float16, [N, K].
        columns: Indices below K, distinct, int32 or int64 [J]. They are not looked at, so that
            the call does not wait for the device; torch refuses those out of range.
        codes: int8 [N, K], from `int8_vectorwise_quant` of the weight without a threshold.
        absmax: Its scales, float32 [N].

    Returns:
        For `int8_linear`: the columns, and weight - decoded codes, computed in float32 and rounded
        to bfloat16 [N, J]. NaN in rows whose scale is not finite.

    Raises:
        TypeError, ValueError: An argument does not fit; the message names it.
    """
    check_tensors(weight=weight, columns=columns, codes=codes, absmax=absmax)
    check_dtype("weight", weight.dtype)
    if weight.ndim != 2 or codes.shape != weight.shape:
        raise ValueError(
            "weight and codes must have the same shape [N, K], "
            f"got {list(weight.shape)} and {list(codes.shape)}"
        )
    _check_columns(columns)
    decoded = int8_vectorwise_dequant(codes.index_select(1, columns), absmax)
    lost = weight.detach().index_select(1, columns).float() - decoded
    return KeptColumns(columns, lost.bfloat16())


def check_kept(kept: KeptColumns, x: Tensor, weight: Tensor) -> None:
    """Raise TypeError or ValueError unless `kept` fits a product of x with `weight` [N, K]."""
    columns, lost = kept
    check_tensors(**{"kept.columns": columns, "kept.lost": lost})
    _check_columns(columns)
    check_dtype("kept.lost", lost.dtype)
    if lost.shape != (len(weight), len(columns)):
        raise ValueError(
            f"kept.lost must have shape [{len(weight)}, {len(columns)}], got {list(lost.shape)}"
        )
    for name, tensor in (("kept.columns", columns), ("kept.lost", lost)):
        if tensor.device != x.device:
            raise ValueError(f"{name} must be on {x.device}, the device of x, not {tensor.device}")


def add_kept(product: Tensor, x: Tensor, kept: KeptColumns) -> Tensor:
    """Add to x @ W.T [..., N], in place, what rounding took from W."""
    # The dtype of the product is that of autocast, where there is one.
    chosen = x.index_select(-1, kept.columns).to(product.dtype)
    lost = kept.lost.to(product.dtype)
    rows, (outputs, columns) = product.shape[:-1].numel(), lost.shape
    chosen, matrix = chosen.view(rows, columns), product.view(rows, outputs)
    if product.device.type == "cpu" and product.dtype != torch.float32:
        # torch starts its own products of 16-bit numbers slowly: with 4 rows and bfloat16 250 us,
        # where this takes 80. With float16 they stay slow: 93 ms with 512 rows and 4096 outputs.
        matrix.copy_(matrix.float().addmm_(chosen.float(), lost.float().t()))
    else:
        matrix.addmm_(chosen, lost.t())
    return product


def _check_columns(columns: Tensor) -> None:
    if columns.dtype not in _INDICES or columns.ndim != 1:
        raise ValueError(
            f"columns must be int32 or int64 [J], got {columns.dtype} {list(columns.shape)}"
        )
