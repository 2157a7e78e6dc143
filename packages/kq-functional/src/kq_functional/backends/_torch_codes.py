"""Encoding and decoding of blocks with torch ops, tile by tile so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..codebooks import shared_table
from ..formats import NESTED_BLOCKSIZE
from .base import Scales

TILE = 1 << 20
"""Elements handled at a time; float64 temporaries of one tile take 8 MiB each."""

# Devices that have no float64; there, codes are decided on the CPU.
_NO_FLOAT64 = frozenset({"mps"})


def tiles(rows: int, cols: int, blocksize: int) -> Iterator[tuple[slice, slice]]:
    """Cut a matrix into tiles of whole blocks with about `TILE` elements."""
    if cols > TILE:
        row_step, col_step = 1, max(TILE // blocksize, 1) * blocksize
    else:
        row_step, col_step = TILE // max(cols, 1), max(cols, 1)
    for row in range(0, rows, row_step):
        for col in range(0, cols, col_step):
            yield slice(row, min(row + row_step, rows)), slice(col, min(col + col_step, cols))


def block_slice(cols: slice, blocksize: int) -> slice:
    """Return the blocks that the columns of a tile lie in."""
    return slice(cols.start // blocksize, -(-cols.stop // blocksize))


def midpoints(code: Tensor) -> Tensor:
    """Return the float64 decision thresholds between the values of a sorted codebook."""
    wide = code.double()
    return (wide[1:] + wide[:-1]) / 2


def encode(
    A: Tensor, absmax: Tensor, thresholds: Tensor, blocksize: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Fill `absmax` and yield (rows, cols, index) for each tile of A.

    An index counts the thresholds T with x / absmax > T: the position of the nearest value in
    ascending order, ties to the lower one. The float64 quotient decides this exactly as long as T
    has at most 30 significant bits (NF4, FP4 and all our maps have at most 29): x and T × absmax
    are then multiples of a common unit u, so that x > T × absmax puts x / absmax above T by at
    least u / absmax, which is more than half the float64 spacing at T.
    """
    rows, cols = A.shape
    blocksize = min(blocksize, max(cols, 1))  # nothing to gain from padding a short row further
    for row, col in tiles(rows, cols, blocksize):
        x = A[row, col].to(device=thresholds.device, dtype=torch.float32)
        height, width = x.shape
        x = pad(x, (0, -width % blocksize)).view(height, -1, blocksize)
        scale = x.abs().amax(-1)
        scale.masked_fill_(scale.isnan(), torch.nan)  # one NaN for all: 0x7fc00000
        absmax[row, block_slice(col, blocksize)] = scale.to(absmax.device)
        # A divisor of infinity gives 0 or NaN, and both become the code of zero.
        divisor = torch.where((scale > 0) & scale.isfinite(), scale, torch.inf).double()
        ratio = (x.double() / divisor.unsqueeze(-1)).nan_to_num_(nan=0.0)
        index = torch.bucketize(ratio, thresholds, out_int32=True)
        yield row, col, index.view(height, -1)[:, :width].to(A.device)


def decode(values: Tensor, absmax: Tensor, blocksize: int, out: Tensor) -> None:
    """Write values [R, C] × absmax [R, nb] into `out`: one float32 product, rounded once."""
    rows, cols = values.shape
    blocksize = min(blocksize, max(cols, 1))
    scale = absmax.unsqueeze(-1).expand(rows, absmax.shape[1], blocksize)
    out.copy_(values * scale.reshape(rows, -1)[:, :cols])


def expand_scales(scales: Scales) -> Tensor:
    """Return float32 absmax [R, nb], decoding double-quantized ones."""
    if scales.nested_absmax is None:
        return scales.absmax
    assert scales.nested_code is not None
    assert scales.offset is not None
    codes = scales.absmax.flatten()
    inner = scales.nested_absmax.repeat_interleave(NESTED_BLOCKSIZE)[: codes.numel()]
    # Two roundings, as the format says: multiply and add must not fuse.
    absmax = scales.nested_code[codes.int()].mul_(inner).add_(scales.offset)
    return absmax.view(scales.absmax.shape)


@lru_cache(maxsize=64)
def sorted_4bit(quant_type: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (thresholds float64 [15], codes uint8 [16] in ascending order of their values)."""
    table = shared_table(quant_type, torch.device("cpu"))
    # Stable: of FP4's two zeros code 0 comes first, and their midpoint is 0.
    ordered, codes = table.sort(stable=True)
    where = encoding_device(device)
    return midpoints(ordered).to(where), codes.to(device=device, dtype=torch.uint8)


@lru_cache(maxsize=64)
def byte_values(quant_type: str, device: torch.device) -> Tensor:
    """Return float32 [256, 2]: the values of the high and the low nibble of every byte."""
    table = shared_table(quant_type, device)
    byte = torch.arange(256, device=device)
    return torch.stack((table[byte >> 4], table[byte & 15]), -1)


def encoding_device(device: torch.device) -> torch.device:
    """Return where tensors of `device` are encoded: there, or on CPU if it has no float64."""
    return torch.device("cpu") if device.type in _NO_FLOAT64 else device
