"""Ops kq::quantize_blockwise, kq::dequantize_blockwise and their out variants."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.base import Backend
from ..formats import Geometry, absmax_shape, geometry
from ..selection import Query, check_query, choose
from .checks import (
    check_apart,
    check_code,
    check_order,
    check_out,
    check_tensor,
    matrix,
    row_matrix,
)
from .library import register


def _quantize_query(A: Tensor, blocksize: int) -> Query:
    return Query("quantize_blockwise", A.device.type, A.dtype, blocksize=blocksize)


def new_results(A: Tensor, geo: Geometry, layout: str) -> tuple[Tensor, Tensor]:
    """Allocate codes and scales for A."""
    codes = A.new_empty(A.shape, dtype=torch.uint8)
    return codes, A.new_empty(absmax_shape(A.shape, geo, layout), dtype=torch.float32)


def _check_results(A: Tensor, geo: Geometry, layout: str, codes: Tensor, absmax: Tensor) -> None:
    check_out("out", codes, torch.uint8, A.shape, A.device)
    check_out("absmax", absmax, torch.float32, absmax_shape(A.shape, geo, layout), A.device)


def _run(
    backend: Backend,
    A: Tensor,
    code: Tensor,
    geo: Geometry,
    codes: Tensor,
    absmax: Tensor,
    blocksize: int,
) -> None:
    check_order("code", code)
    backend.quantize_blockwise(
        row_matrix(A, geo.rows, geo.cols),
        code.contiguous(),
        codes.view(geo.rows, geo.cols),
        absmax.view(geo.rows, geo.blocks),
        blocksize=blocksize,
    )


def _quantize(A: Tensor, code: Tensor, blocksize: int, layout: str) -> tuple[Tensor, Tensor]:
    backend = choose(_quantize_query(A, blocksize))
    check_code("code", code, A.device)
    geo = geometry(A.shape, blocksize, layout)
    codes, absmax = new_results(A, geo, layout)
    _run(backend, A, code, geo, codes, absmax, blocksize)
    return codes, absmax


def _quantize_fake(A: Tensor, code: Tensor, blocksize: int, layout: str) -> tuple[Tensor, Tensor]:
    check_query(_quantize_query(A, blocksize))
    check_code("code", code, A.device)
    return new_results(A, geometry(A.shape, blocksize, layout), layout)


def _quantize_out(
    A: Tensor, code: Tensor, blocksize: int, layout: str, *, codes: Tensor, absmax: Tensor
) -> None:
    backend = choose(_quantize_query(A, blocksize))
    check_code("code", code, A.device)
    geo = geometry(A.shape, blocksize, layout)
    _check_results(A, geo, layout, codes, absmax)
    check_apart("out", codes, A=A, code=code)
    check_apart("absmax", absmax, A=A, code=code, out=codes)
    _run(backend, A, code, geo, codes, absmax, blocksize)


def _quantize_out_fake(
    A: Tensor, code: Tensor, blocksize: int, layout: str, *, codes: Tensor, absmax: Tensor
) -> None:
    check_query(_quantize_query(A, blocksize))
    check_code("code", code, A.device)
    _check_results(A, geometry(A.shape, blocksize, layout), layout, codes, absmax)


def _check_dequantize(
    codes: Tensor, code: Tensor, absmax: Tensor, blocksize: int, layout: str, dtype: torch.dtype
) -> Geometry:
    check_query(Query("dequantize_blockwise", codes.device.type, dtype, blocksize=blocksize))
    check_tensor("codes", codes, torch.uint8, codes.numel(), codes.device)
    check_code("code", code, codes.device)
    geo = geometry(codes.shape, blocksize, layout)
    check_tensor("absmax", absmax, torch.float32, geo.rows * geo.blocks, codes.device)
    return geo


def _decode(
    codes: Tensor, code: Tensor, absmax: Tensor, geo: Geometry, blocksize: int, out: Tensor
) -> None:
    query = Query("dequantize_blockwise", codes.device.type, out.dtype, blocksize=blocksize)
    choose(query).dequantize_blockwise(
        matrix(codes, geo.rows, geo.cols),
        code.contiguous(),
        matrix(absmax, geo.rows, geo.blocks),
        out.view(geo.rows, geo.cols),
        blocksize=blocksize,
    )


def _dequantize(
    codes: Tensor, code: Tensor, absmax: Tensor, blocksize: int, layout: str, dtype: torch.dtype
) -> Tensor:
    geo = _check_dequantize(codes, code, absmax, blocksize, layout, dtype)
    out = codes.new_empty(codes.shape, dtype=dtype)
    _decode(codes, code, absmax, geo, blocksize, out)
    return out


def _dequantize_fake(
    codes: Tensor, code: Tensor, absmax: Tensor, blocksize: int, layout: str, dtype: torch.dtype
) -> Tensor:
    _check_dequantize(codes, code, absmax, blocksize, layout, dtype)
    return codes.new_empty(codes.shape, dtype=dtype)


def _dequantize_out(
    codes: Tensor, code: Tensor, absmax: Tensor, blocksize: int, layout: str, *, out: Tensor
) -> None:
    geo = _check_dequantize(codes, code, absmax, blocksize, layout, out.dtype)
    check_out("out", out, out.dtype, codes.shape, codes.device)
    check_apart("out", out, A=codes, code=code, absmax=absmax)
    _decode(codes, code, absmax, geo, blocksize, out)


def _dequantize_out_fake(
    codes: Tensor, code: Tensor, absmax: Tensor, blocksize: int, layout: str, *, out: Tensor
) -> None:
    _check_dequantize(codes, code, absmax, blocksize, layout, out.dtype)
    check_out("out", out, out.dtype, codes.shape, codes.device)


quantize_blockwise = register(
    "quantize_blockwise(Tensor A, Tensor code, int blocksize, str layout) "
    "-> (Tensor codes, Tensor absmax)",
    _quantize,
    _quantize_fake,
)
quantize_blockwise_out = register(
    "quantize_blockwise.out(Tensor A, Tensor code, int blocksize, str layout, *, "
    "Tensor(a!) codes, Tensor(b!) absmax) -> ()",
    _quantize_out,
    _quantize_out_fake,
)
dequantize_blockwise = register(
    "dequantize_blockwise(Tensor codes, Tensor code, Tensor absmax, int blocksize, str layout, "
    "ScalarType dtype) -> Tensor",
    _dequantize,
    _dequantize_fake,
)
dequantize_blockwise_out = register(
    "dequantize_blockwise.out(Tensor codes, Tensor code, Tensor absmax, int blocksize, "
    "str layout, *, Tensor(a!) out) -> ()",
    _dequantize_out,
    _dequantize_out_fake,
)
