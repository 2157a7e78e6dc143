"""Parameters as float32 numbers, and how new ones are stored (docs/FORMAT.md)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


class Parameter(Protocol):
    """A contiguous parameter, however it is stored."""

    def load(self, part: slice) -> Tensor:
        """Return it in float32 from `part` of its flat elements, for `store` after an update."""

    def store(self, part: slice, p: Tensor) -> None:
        """Keep what `load` returned, updated."""


class Nearest:
    """Each element is rounded once to the parameter's dtype."""

    def __init__(self, param: Tensor) -> None:
        self._flat = param.view(-1)

    def load(self, part: slice) -> Tensor:
        """See `Parameter.load`."""
        return self._flat[part].float()

    def store(self, part: slice, p: Tensor) -> None:
        """See `Parameter.store`."""
        if self._flat.dtype != torch.float32:  # else p is a view, and stored already
            self._flat[part] = p


class Stochastic(Nearest):
    """bfloat16: a random number is added to the bits that are cut off."""

    def __init__(self, param: Tensor, seed: int, step: int) -> None:
        super().__init__(param)
        self._key = seed_key(seed, step)

    def store(self, part: slice, p: Tensor) -> None:
        """See `Parameter.store`."""
        bits = _bits(p)
        added = random_words(self._key, part.start, part.stop, p.device).bitwise_and_(0xFFFF)
        rounded = _upper_half(bits + added)
        nearest = p.bfloat16()
        # Nobody is pushed over the edge: what is finite, and would be if rounded to nearest, stays.
        rounded = torch.where(rounded.isinf() & nearest.isfinite(), _upper_half(bits), rounded)
        self._flat[part] = torch.where(p.isfinite(), rounded, nearest)


class Corrected:
    """bfloat16 and an int8 correction: the upper 24 bits of a float32 master weight."""

    def __init__(self, param: Tensor, correction: Tensor) -> None:
        self._flat = param.view(-1)
        self._correction = correction.view(-1)

    def load(self, part: slice) -> Tensor:
        """See `Parameter.load`."""
        upper = self._flat[part].view(torch.int16).int() << 16
        return (upper + (self._correction[part].int() << 8)).view(torch.float32)

    def store(self, part: slice, p: Tensor) -> None:
        """See `Parameter.store`."""
        bits = _bits(p)
        # To nearest, ties to even, at 24 bits; then half up, so that the rest fits in a byte.
        bits = (bits + 0x7F + ((bits >> 8) & 1)) & ~0xFF
        rounded = _upper_half(bits + 0x8000)
        rest = ((bits & 0xFFFF) ^ 0x8000) - 0x8000
        finite = p.isfinite()
        beyond = finite & rounded.isinf()
        largest = torch.finfo(torch.bfloat16).max
        rounded = torch.where(beyond, torch.full_like(rounded, largest).copysign(p), rounded)
        self._flat[part] = torch.where(finite, rounded, p.bfloat16())
        rest = torch.where(beyond, 127, rest >> 8)
        self._correction[part] = torch.where(finite, rest, 0).to(torch.int8)


def _bits(p: Tensor) -> Tensor:
    """Return the bits of float32 numbers as int64 numbers that are not negative."""
    return p.view(torch.int32).to(torch.int64).bitwise_and_(_WORD)


def _upper_half(bits: Tensor) -> Tensor:
    """Return the bfloat16 numbers that the upper halves of 32 bits are."""
    return (bits << 32 >> 48).to(torch.int16).view(torch.bfloat16)


def seed_key(seed: int, step: int) -> int:
    """Return the key of one step of one parameter: 64 bits (the finalizer of SplitMix64)."""
    z = (seed + 0x9E3779B97F4A7C15 * step) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def random_words(key: int, start: int, stop: int, device: torch.device) -> Tensor:
    """Return 32 random bits, as int64, for each of the elements `start` to `stop`.

    No product leaves the range of int64: a factor of 32 bits is taken less 2^32.
    """
    index = torch.arange(start, stop, device=device)
    low, high = key & _WORD, key >> 32
    word = _scramble((index & _WORD) ^ low)
    word = word.mul_(0x846CA68B - (1 << 32)).bitwise_and_(_WORD)
    word = (word ^ (word >> 16)).add_(high).add_((index >> 32) * 0x9E3779B9).bitwise_and_(_WORD)
    return _scramble(word)


def _scramble(word: Tensor) -> Tensor:
    word = (word ^ (word >> 16)).mul_(0x7FEB352D).bitwise_and_(_WORD)
    return word ^ (word >> 15)
