"""The int8 ops of the pure-torch backend, tile by tile so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..formats import check_dtype
from ..int8_format import (
    LARGEST_CODE,
    PRODUCT_SCALE,
    check_inner,
    check_int8,
    float32_threshold,
)
from ..products import is_host, sum_dtype
from ._torch_codes import TILE
from .base import Backend

_EXACT = 1024
"""Products of codes, each at most 2^14, whose sums float32 holds exactly: up to 2^24."""


def _row_tiles(rows: int, cols: int) -> Iterator[slice]:
    """Cut a matrix into tiles of whole rows with about `TILE` elements."""
    step = max(TILE // max(cols, 1), 1)
    for row in range(0, rows, step):
        yield slice(row, min(row + step, rows))


def _decode(codes: Tensor, absmax: Tensor) -> Tensor:
    """Return float32 codes [R, C] / 127 × absmax [R]: neither over- nor underflows on the way."""
    # A divisor on the device: a division by a number may become a product with its inverse.
    divisor = absmax.new_full((), LARGEST_CODE)
    return codes.float().div_(divisor).mul_(absmax.unsqueeze(1))


def _encode(x: Tensor, scale: Tensor) -> Tensor:
    """Return the codes, as float32, of x [R, C] with absmax `scale` [R]."""
    codable = (scale > 0) & scale.isfinite()
    divisor = scale.where(codable, 1.0)
    # 127 / absmax must not overflow; a power of two changes nothing else.
    lift = torch.where(divisor < 2.0**-64, 2.0**64, 1.0).to(divisor.dtype)
    inverse = torch.full_like(divisor, LARGEST_CODE).div_(divisor * lift)
    x = x.masked_fill(~codable.unsqueeze(1), 0)
    return x.mul_(lift.unsqueeze(1)).mul_(inverse.unsqueeze(1)).round_()


class TorchInt8(Backend):
    """The int8 ops with torch ops only, without a wait for the device."""

    def int8_vectorwise_quant(
        self,
        A: Tensor,
        codes: Tensor,
        absmax: Tensor,
        outliers: Tensor | None,
        *,
        threshold: float,
    ) -> None:
        """Encode row by row; clear the codes of outlier columns when all of them are known."""
        check_dtype("A", A.dtype)
        if outliers is not None:
            outliers.fill_(False)
            threshold = float32_threshold(threshold)
        if not A.shape[1]:
            absmax.zero_()
            return
        for rows in _row_tiles(*A.shape):
            x = A[rows].float()
            size = x.abs()
            if outliers is not None:
                large = size >= threshold
                outliers.logical_or_(large.any(0))
                x, size = x.masked_fill(large, 0), size.masked_fill_(large, 0)
            scale = size.amax(1)
            scale.masked_fill_(scale.isnan(), torch.nan)  # one NaN for all: 0x7fc00000
            absmax[rows] = scale
            codes[rows] = _encode(x, scale).to(torch.int8)
        if outliers is not None:
            codes.masked_fill_(outliers, 0)

    def int8_vectorwise_dequant(self, codes: Tensor, absmax: Tensor, out: Tensor) -> None:
        """Decode row by row."""
        check_dtype("out", out.dtype)
        for rows in _row_tiles(*codes.shape):
            out[rows] = _decode(codes[rows], absmax[rows])

    def int8_linear_matmul(self, A: Tensor, B: Tensor, out: Tensor) -> None:
        """Multiply in float32 slices so short that every sum in them is exact."""
        check_int8("A", A.dtype)
        inner = A.shape[1]
        check_inner(inner)
        if not inner:
            out.zero_()
        for start in range(0, inner, _EXACT):
            cols = slice(start, min(start + _EXACT, inner))
            left = A[:, cols].float()
            for rows in _row_tiles(B.shape[0], cols.stop - cols.start):
                right = B[rows, cols].float()
                # Written to a given tensor, which autocast leaves alone.
                part = right.new_empty(left.shape[0], right.shape[0])
                torch.mm(left, right.t(), out=part)
                if start:
                    out[:, rows] += part.int()
                else:
                    out[:, rows] = part

    def int8_mm_dequant(
        self,
        A: Tensor,
        row_absmax: Tensor,
        col_absmax: Tensor,
        bias: Tensor | None,
        out: Tensor,
    ) -> None:
        """Scale row by row."""
        check_dtype("out", out.dtype)
        self._scale(A, row_absmax, col_absmax, None, bias, out)

    def int8_linear(
        self,
        x: Tensor,
        weight: Tensor,
        absmax: Tensor,
        bias: Tensor | None,
        out: Tensor,
        *,
        threshold: float,
    ) -> None:
        """Quantize, multiply, and add what the outlier columns contribute."""
        check_dtype("x", x.dtype)
        (m, k), n = x.shape, weight.shape[0]
        check_inner(k)
        codes = x.new_empty(m, k, dtype=torch.int8)
        row_absmax = x.new_empty(m, dtype=torch.float32)
        outliers = x.new_empty(k, dtype=torch.bool) if threshold else None
        self.int8_vectorwise_quant(x, codes, row_absmax, outliers, threshold=threshold)
        sums = x.new_empty(m, n, dtype=torch.int32)
        self.int8_linear_matmul(codes, weight, sums)
        extra = None if outliers is None else _outlier_product(x, weight, absmax, outliers)
        self._scale(sums, row_absmax, absmax, extra, bias, out)

    def int8_linear_backward(
        self, grad: Tensor, weight: Tensor, absmax: Tensor, out: Tensor
    ) -> None:
        """Decode some rows of the weight at a time and add up their products."""
        check_dtype("grad", grad.dtype)
        dtype = sum_dtype(grad.device)
        total = out.new_zeros(out.shape, dtype=dtype)
        for rows in _row_tiles(*weight.shape):
            values = _decode(weight[rows], absmax[rows]).to(dtype)
            torch.addmm(total, grad[:, rows].to(dtype), values, out=total)
        out.copy_(total)

    @staticmethod
    def _scale(
        sums: Tensor,
        row_absmax: Tensor,
        col_absmax: Tensor,
        extra: Tensor | None,
        bias: Tensor | None,
        out: Tensor,
    ) -> None:
        """Write sums × scales + extra + bias to `out`: in float32, rounded once."""
        for rows in _row_tiles(*out.shape):
            scale = row_absmax[rows].unsqueeze(1) * col_absmax
            values = sums[rows].float().mul_(scale.mul_(PRODUCT_SCALE))
            if extra is not None:
                values += extra[rows]
            if bias is not None:
                values += bias
            out[rows] = values


def _outlier_product(x: Tensor, weight: Tensor, absmax: Tensor, outliers: Tensor) -> Tensor:
    """Return float32 [M, N]: the columns of x that have outliers times those of the weight."""
    if is_host(x.device):
        chosen = outliers.nonzero().flatten()
        x, weight = x[:, chosen], weight[:, chosen]
    else:  # the number of columns is known to the device only
        x = x.where(outliers, 0)
    dtype = sum_dtype(x.device)
    left = x.to(dtype)
    product = left.new_empty(x.shape[0], weight.shape[0])
    for rows in _row_tiles(*weight.shape):
        values = _decode(weight[rows], absmax[rows]).to(dtype)
        torch.mm(left, values.t(), out=product[:, rows])
    return product.float()
