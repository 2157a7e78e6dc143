"""Ops kq::quantize_4bit, kq::dequantize_4bit and their out variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends.base import Backend, Scales
from ..formats import Geometry, absmax_shape, geometry, packed_shape
from ..selection import Query, check_query, choose
from .checks import check_apart, check_out, dense_weight, row_matrix
from .library import register


def _quantize_query(A: Tensor, blocksize: int, quant_type: str) -> Query:
    return Query("quantize_4bit", A.device.type, A.dtype, quant_type, blocksize)


def new_results(A: Tensor, geo: Geometry, layout: str) -> tuple[Tensor, Tensor]:
    """Allocate codes and scales for A."""
    packed = A.new_empty(packed_shape(A.shape, geo, layout), dtype=torch.uint8)
    return packed, A.new_empty(absmax_shape(A.shape, geo, layout), dtype=torch.float32)


def _check_results(A: Tensor, geo: Geometry, layout: str, packed: Tensor, absmax: Tensor) -> None:
    check_out("out", packed, torch.uint8, packed_shape(A.shape, geo, layout), A.device)
    check_out("absmax", absmax, torch.float32, absmax_shape(A.shape, geo, layout), A.device)


def _run(
    backend: Backend,
    A: Tensor,
    geo: Geometry,
    packed: Tensor,
    absmax: Tensor,
    blocksize: int,
    quant_type: str,
) -> None:
    backend.quantize_4bit(
        row_matrix(A, geo.rows, geo.cols),
        packed.view(geo.rows, geo.packed_cols),
        absmax.view(geo.rows, geo.blocks),
        quant_type=quant_type,
        blocksize=blocksize,
    )


def _quantize(A: Tensor, blocksize: int, quant_type: str, layout: str) -> tuple[Tensor, Tensor]:
    backend = choose(_quantize_query(A, blocksize, quant_type))
    geo = geometry(A.shape, blocksize, layout)
    packed, absmax = new_results(A, geo, layout)
    _run(backend, A, geo, packed, absmax, blocksize, quant_type)
    return packed, absmax


def _quantize_fake(
    A: Tensor, blocksize: int, quant_type: str, layout: str
) -> tuple[Tensor, Tensor]:
    check_query(_quantize_query(A, blocksize, quant_type))
    return new_results(A, geometry(A.shape, blocksize, layout), layout)


def _quantize_out(
    A: Tensor, blocksize: int, quant_type: str, layout: str, *, packed: Tensor, absmax: Tensor
) -> None:
    backend = choose(_quantize_query(A, blocksize, quant_type))
    geo = geometry(A.shape, blocksize, layout)
    _check_results(A, geo, layout, packed, absmax)
    check_apart("out", packed, A=A)
    check_apart("absmax", absmax, A=A, out=packed)
    _run(backend, A, geo, packed, absmax, blocksize, quant_type)


def _quantize_out_fake(
    A: Tensor, blocksize: int, quant_type: str, layout: str, *, packed: Tensor, absmax: Tensor
) -> None:
    check_query(_quantize_query(A, blocksize, quant_type))
    _check_results(A, geometry(A.shape, blocksize, layout), layout, packed, absmax)


def _dequantize_query(packed: Tensor, dtype: torch.dtype, blocksize: int, quant_type: str) -> Query:
    return Query("dequantize_4bit", packed.device.type, dtype, quant_type, blocksize)


def dequantize_into(
    packed: Tensor,
    scales: Scales,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    out: Tensor,
) -> None:
    """Check a weight and decode it into a contiguous tensor."""
    backend = choose(_dequantize_query(packed, out.dtype, blocksize, quant_type))
    packed, scales, geo = dense_weight(packed, scales, shape, blocksize, layout)
    backend.dequantize_4bit(
        packed,
        scales,
        out.view(geo.rows, geo.cols),
        quant_type=quant_type,
        blocksize=blocksize,
    )


def _dequantize(
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    dtype: torch.dtype,
    *nested: Tensor | None,
) -> Tensor:
    out = packed.new_empty(shape, dtype=dtype)
    scales = Scales(absmax, *nested)
    dequantize_into(packed, scales, shape, blocksize, quant_type, layout, out)
    return out


def _dequantize_fake(
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    dtype: torch.dtype,
    *nested: Tensor | None,
) -> Tensor:
    check_query(_dequantize_query(packed, dtype, blocksize, quant_type))
    dense_weight(packed, Scales(absmax, *nested), shape, blocksize, layout)
    return packed.new_empty(shape, dtype=dtype)


def _dequantize_out(
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
    out: Tensor,
) -> None:
    check_out("out", out, out.dtype, shape, packed.device)
    scales = Scales(absmax, *nested)
    given = {name: each for name, each in scales._asdict().items() if each is not None}
    check_apart("out", out, A=packed, **given)
    dequantize_into(packed, scales, shape, blocksize, quant_type, layout, out)


def _dequantize_out_fake(
    packed: Tensor,
    absmax: Tensor,
    shape: Sequence[int],
    blocksize: int,
    quant_type: str,
    layout: str,
    *nested: Tensor | None,
    out: Tensor,
) -> None:
    check_query(_dequantize_query(packed, out.dtype, blocksize, quant_type))
    check_out("out", out, out.dtype, shape, packed.device)
    dense_weight(packed, Scales(absmax, *nested), shape, blocksize, layout)


_FORMAT = "int blocksize, str quant_type, str layout"
_NESTED = "Tensor? nested_absmax=None, Tensor? nested_code=None, Tensor? offset=None"

quantize_4bit = register(
    f"quantize_4bit(Tensor A, {_FORMAT}) -> (Tensor packed, Tensor absmax)",
    _quantize,
    _quantize_fake,
)
quantize_4bit_out = register(
    f"quantize_4bit.out(Tensor A, {_FORMAT}, *, Tensor(a!) packed, Tensor(b!) absmax) -> ()",
    _quantize_out,
    _quantize_out_fake,
)
dequantize_4bit = register(
    f"dequantize_4bit(Tensor packed, Tensor absmax, SymInt[] shape, {_FORMAT}, "
    f"ScalarType dtype, {_NESTED}) -> Tensor",
    _dequantize,
    _dequantize_fake,
)
dequantize_4bit_out = register(
    f"dequantize_4bit.out(Tensor packed, Tensor absmax, SymInt[] shape, {_FORMAT}, {_NESTED}, "
    "*, Tensor(a!) out) -> ()",
    _dequantize_out,
    _dequantize_out_fake,
)
