"""The random numbers of stochastic rounding (docs/FORMAT.md), against Python's integers."""

from __future__ import annotations

import pytest
import torch

from kq_functional.backends._torch_rounding import random_words, seed_key

CPU = torch.device("cpu")
W32, W64 = 2**32, 2**64


def word(seed: int, step: int, index: int) -> int:
    """The definition, number by number."""
    z = (seed + 0x9E3779B97F4A7C15 * step) % W64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % W64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % W64
    key = z ^ (z >> 31)
    h = (index % W32) ^ (key % W32)
    h = ((h ^ (h >> 16)) * 0x7FEB352D) % W32
    h = ((h ^ (h >> 15)) * 0x846CA68B) % W32
    h ^= h >> 16
    h = (h + (key >> 32) + 0x9E3779B9 * (index >> 32)) % W32
    h = ((h ^ (h >> 16)) * 0x7FEB352D) % W32
    return h ^ (h >> 15)


def test_the_key_is_splitmix64() -> None:
    """The first numbers of that generator from state 1234567, as its author lists them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [seed_key(1234567, step) for step in (1, 2, 3)] == known


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
@pytest.mark.parametrize("step", [1, 2, 1000, 2**40])
@pytest.mark.parametrize("start", [0, 3, 2**32 - 5, 2**32, 5 * 2**32 + 7, 2**40])
def test_words(seed: int, step: int, start: int) -> None:
    found = random_words(seed_key(seed, step), start, start + 20, CPU)
    assert found.tolist() == [word(seed, step, start + i) for i in range(20)]


def test_a_word_depends_on_nothing_but_seed_step_and_element() -> None:
    key = seed_key(5, 9)
    whole = random_words(key, 0, 1000, CPU)
    assert torch.equal(whole[300:700], random_words(key, 300, 700, CPU))


def test_words_are_even() -> None:
    """Of n words, a bit is set in n / 2 up to 5 sigma = 2.5 sqrt(n); so are pairs of neighbors."""
    n = 1 << 16
    words = random_words(seed_key(7, 1), 0, n, CPU)
    after = random_words(seed_key(7, 2), 0, n, CPU)
    other = random_words(seed_key(8, 1), 0, n, CPU)
    for bit in range(32):
        bits, *others = ((each >> bit & 1).bool() for each in (words, after, other, words.roll(1)))
        for sample in (bits, *(bits ^ each for each in others)):
            assert abs(int(sample.sum()) - n / 2) < 2.5 * n**0.5
