"""How a new parameter, known in float32, is kept in bfloat16 without losing what is too small.

Stochastic rounding adds a random number below the last bit before it truncates. A correction keeps
eight further bits of the parameter beside it: a master weight of 24 bits in three bytes.
"""

import numpy as np

from kq_conformance.floats import BFLOAT16, FLOAT32, Array, Float64

__all__ = ["join_master", "random_words", "round_stochastic", "split_master"]

_WORD = 1 << 64
_INFINITY = 0x7F80  # bfloat16

# The largest master weight: the largest bfloat16 and the largest correction, in float32 bits.
_LARGEST_BITS = (0x7F7F << 16) + (127 << 8)


def _key(seed: int, step: int) -> tuple[int, int]:
    """The low and the high half of the key of a step: the finalizer of SplitMix64.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014).
    """
    z = (seed + 0x9E3779B97F4A7C15 * step) % _WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % _WORD
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32


def random_words(seed: int, step: int, places: Array) -> Array:
    """The random number of each element of a parameter in a step.

    Args:
        seed: of the parameter, any 64-bit integer.
        step: the number of the step, from 1.
        places: int64, indices of elements in the flattened parameter.

    Returns:
        uint32 in the shape of `places`.
    """
    low, high = _key(seed, step)
    places = np.asarray(places, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    h = (places & mask) ^ np.uint64(low)
    h ^= h >> np.uint64(16)
    h = h * np.uint64(0x7FEB352D) & mask
    h ^= h >> np.uint64(15)
    h = h * np.uint64(0x846CA68B) & mask
    h ^= h >> np.uint64(16)
    h = (h + np.uint64(high) + np.uint64(0x9E3779B9) * (places >> np.uint64(32))) & mask
    h ^= h >> np.uint64(16)
    h = h * np.uint64(0x7FEB352D) & mask
    h ^= h >> np.uint64(15)
    return h.astype(np.uint32)


def round_stochastic(x: Float64, words: Array) -> Float64:
    """Round float32 numbers to bfloat16: (bits + the low 16 bits of the word) >> 16.

    NaN and infinities stay what they are; a finite number that would become infinite only by the
    random number is truncated.

    Args:
        x: float64 [...] holding float32 numbers.
        words: uint32 [...].

    Returns:
        float64 [...] holding bfloat16 numbers.
    """
    bits = FLOAT32.encode(x).astype(np.uint64)
    moved = (bits + (words & np.uint32(0xFFFF)).astype(np.uint64)) >> np.uint64(16)
    truncated = bits >> np.uint64(16)
    infinite = moved & np.uint64(0x7FFF) == _INFINITY
    early = infinite & np.isfinite(x) & np.isfinite(BFLOAT16.round(x))
    rounded = BFLOAT16.decode(np.where(early, truncated, moved & np.uint64(0xFFFF)))
    return np.where(np.isfinite(x), rounded, x)


def join_master(p: Array, correction: Array) -> Float64:
    """The master weights: bfloat16 bits and int8 corrections to float64 holding float32 numbers."""
    high = p.astype(np.int64) << 16
    bits = high + (correction.astype(np.uint8).view(np.int8).astype(np.int64) << 8)
    return FLOAT32.decode((bits % (1 << 32)).astype(np.uint32))


def split_master(x: Float64) -> tuple[Array, Array]:
    """Round float32 numbers to 24 bits and split them; the inverse of `join_master`.

    NaN and infinities are kept by bfloat16 alone; a finite number beyond the largest master weight
    becomes that.

    Args:
        x: float64 [...] holding float32 numbers.

    Returns:
        bfloat16 bits uint16 [...] and corrections as uint8 [...] (two's complement).
    """
    bits = FLOAT32.encode(x).astype(np.int64)
    sign, magnitude = bits & (1 << 31), bits & ((1 << 31) - 1)
    # To a multiple of 256, ties to even; of the magnitude, as the sign is a bit of its own.
    odd = magnitude >> 8 & 1
    magnitude = (magnitude + 127 + odd) >> 8 << 8
    magnitude = np.minimum(magnitude, _LARGEST_BITS)
    p = (magnitude + 0x8000) >> 16
    correction = (magnitude - (p << 16)) >> 8
    finite = np.isfinite(x)
    kept = np.where(finite, p | sign >> 16, BFLOAT16.encode(np.where(finite, 0.0, x)))
    return kept.astype(np.uint16), np.where(finite, correction, 0).astype(np.int8).view(np.uint8)
