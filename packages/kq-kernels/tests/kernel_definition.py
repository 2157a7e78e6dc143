"""The operations as definitions in NumPy's float64, for comparison with the kernels.

Element by element and slow on purpose: a definition that one can read. Written for these tests and
independent of the conformance suite, which judges kernels through a backend.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# float32 bit patterns, docs/FORMAT.md
NF4_BITS = """
bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000
3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000"""
FP4_BITS = """
00000000 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000
00000000 bbaaaaab bf2aaaab bf800000 beaaaaab bf000000 be2aaaab be800000"""


def from_bits(text: str) -> NDArray[np.float32]:
    return np.array([int(word, 16) for word in text.split()], np.uint32).view(np.float32)


NF4, FP4 = from_bits(NF4_BITS), from_bits(FP4_BITS)
CODEBOOKS = {"nf4": NF4, "fp4": FP4}
# Codes in ascending order of value; of fp4's two zeros, code 0 comes first.
ASCENDING = {
    "nf4": np.arange(16),
    "fp4": np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]),
}


def dynamic_map(signed: bool) -> NDArray[np.float32]:
    """The 8-bit dynamic map: seven decades with 2^i (signed) or 2^(i+1) evenly spaced means."""
    values = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1.0, 2 ** (i + (0 if signed else 1)) + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - 6)
        values += [*means, *(-means if signed else [])]
    return np.sort(np.array(values)).astype(np.float32)


def blocks(x: NDArray, blocksize: int) -> list[tuple[int, int]]:
    """Column ranges of the blocks of a row."""
    cols = x.shape[1]
    return [(start, min(start + blocksize, cols)) for start in range(0, cols, blocksize)]


def absmax(x: NDArray, blocksize: int) -> NDArray[np.float32]:
    spans = blocks(x, blocksize)
    out = np.zeros((x.shape[0], len(spans)), np.float32)
    for j, (start, stop) in enumerate(spans):
        out[:, j] = np.abs(x[:, start:stop]).max(axis=1)  # NumPy's maximum propagates NaN
    return out


def nearest(x: NDArray, scales: NDArray, values: NDArray[np.float32], blocksize: int) -> NDArray:
    """Ranks of the values nearest to x / scale, ties to the lower; of zero without a ratio."""
    v = values.astype(np.float64)
    middles = (v[:-1] + v[1:]) / 2
    zero = int((middles < 0.0).sum())
    ranks = np.full(x.shape, zero, np.int64)
    for j, (start, stop) in enumerate(blocks(x, blocksize)):
        scale = scales[:, j].astype(np.float64)
        good = (scale > 0) & np.isfinite(scale)
        # Products of 28- and 24-bit numbers are exact in float64, and so is the comparison.
        with np.errstate(invalid="ignore"):  # 0 * inf in blocks that are not good
            above = x[:, start:stop, None].astype(np.float64) > middles * scale[:, None, None]
        ranks[:, start:stop] = np.where(good[:, None], above.sum(axis=-1), zero)
    return ranks


def quantize_4bit(x: NDArray, blocksize: int, quant_type: str) -> tuple[NDArray, NDArray]:
    order = ASCENDING[quant_type]
    scales = absmax(x, blocksize)
    codes = order[nearest(x, scales, CODEBOOKS[quant_type][order], blocksize)].astype(np.uint8)
    if x.shape[1] % 2:
        zero = 7 if quant_type == "nf4" else 0
        codes = np.concatenate([codes, np.full((x.shape[0], 1), zero, np.uint8)], axis=1)
    return codes[:, 0::2] << 4 | codes[:, 1::2], scales


def unpack(packed: NDArray, cols: int) -> NDArray:
    rows, width = packed.shape
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(rows, 2 * width)[:, :cols]


def spread(scales: NDArray, blocksize: int, cols: int) -> NDArray:
    return np.repeat(scales, blocksize, axis=1)[:, :cols]


def dequantize_4bit(
    packed: NDArray, scales: NDArray, cols: int, blocksize: int, quant_type: str
) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return CODEBOOKS[quant_type][unpack(packed, cols)] * spread(scales, blocksize, cols)
