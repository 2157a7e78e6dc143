"""Block formats: which block sizes exist and how a tensor maps to codes and scales.

A tensor is seen as a matrix [R, C]. With layout "row", C is the size of the last dimension and a
block never crosses a row: the last block of a row may be short, and a row of odd length is padded
by one 4-bit code. With layout "flat" the whole tensor is one row. The two coincide whenever C is
a multiple of the block size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

QUANT_TYPES = ("nf4", "fp4")
LAYOUTS = ("row", "flat")
BLOCKSIZES_4BIT = frozenset(1 << bits for bits in range(5, 13))
NESTED_BLOCKSIZE = 256
"""Block size of the second quantization, the one applied to absmax."""
OPTIMIZER_BLOCKSIZE = 256
"""Block size of 8-bit optimizer state."""
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Geometry(NamedTuple):
    """Sizes of the matrix view of a tensor and of what is stored for it."""

    rows: int
    cols: int
    blocks: int
    """Blocks in one row."""

    @property
    def packed_cols(self) -> int:
        """Bytes in one row of packed 4-bit codes."""
        return (self.cols + 1) // 2


def geometry(shape: Sequence[int], blocksize: int, layout: str) -> Geometry:
    """Return the matrix view of a tensor of `shape`; a 0-d tensor is one row of one element."""
    check_layout(layout)
    if layout == "row" and shape:
        rows, cols = math.prod(shape[:-1]), shape[-1]
    else:
        rows, cols = 1, math.prod(shape)
    return Geometry(rows, cols, (cols + blocksize - 1) // blocksize)


def packed_shape(shape: Sequence[int], geo: Geometry, layout: str) -> tuple[int, ...]:
    """Return the shape of the packed 4-bit codes of a tensor of `shape`."""
    return (geo.packed_cols, 1) if layout == "flat" else (*shape[:-1], geo.packed_cols)


def absmax_shape(shape: Sequence[int], geo: Geometry, layout: str) -> tuple[int, ...]:
    """Return the shape of the scales of a tensor of `shape`."""
    return (geo.blocks,) if layout == "flat" else (*shape[:-1], geo.blocks)


def check_layout(layout: object) -> None:
    """Raise ValueError unless `layout` is a known layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Raise TypeError unless a tensor of this dtype can be quantized and multiplied."""
    if dtype not in FLOAT_DTYPES:
        accepted = ", ".join(map(dtype_name, FLOAT_DTYPES))
        raise TypeError(f"{name} must be one of {accepted}, got {dtype_name(dtype)}")


def check_quant_type(quant_type: object) -> None:
    """Raise ValueError unless `quant_type` is a 4-bit type."""
    if quant_type not in QUANT_TYPES:
        raise ValueError(f"quant_type must be one of {', '.join(QUANT_TYPES)}, got {quant_type!r}")


def check_blocksize(blocksize: object, *, four_bit: bool) -> None:
    """Raise unless `blocksize` is legal: a power of two in 32..4096 for 4 bits, else >= 1."""
    if isinstance(blocksize, bool) or not isinstance(blocksize, int):
        raise TypeError(f"blocksize must be an int, got {type(blocksize).__name__}")
    if four_bit and blocksize not in BLOCKSIZES_4BIT:
        accepted = ", ".join(map(str, sorted(BLOCKSIZES_4BIT)))
        raise ValueError(f"blocksize must be one of {accepted}, got {blocksize}")
    if blocksize < 1:
        raise ValueError(f"blocksize must be at least 1, got {blocksize}")


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32, and so on."""
    return str(dtype).removeprefix("torch.")
