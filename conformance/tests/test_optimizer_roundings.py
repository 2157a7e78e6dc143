"""Stochastic rounding and master weights of 24 bits."""

import numpy as np
import pytest

from kq_conformance.bounds import Enclosure, Step, judge_corrected, judge_mean, judge_stochastic
from kq_conformance.floats import BFLOAT16, FLOAT32
from kq_conformance.reference import join_master, random_words, round_stochastic, split_master


def word(seed, step, i):
    """The contract, line by line, in integers of any size."""
    low32, low64 = (1 << 32) - 1, (1 << 64) - 1
    z = seed + 0x9E3779B97F4A7C15 * step & low64
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & low64
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & low64
    z ^= z >> 31
    h = i & low32 ^ z & low32
    h ^= h >> 16
    h = h * 0x7FEB352D & low32
    h ^= h >> 15
    h = h * 0x846CA68B & low32
    h ^= h >> 16
    h = h + (z >> 32) + 0x9E3779B9 * (i >> 32) & low32
    h ^= h >> 16
    h = h * 0x7FEB352D & low32
    return h ^ h >> 15


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("step", [1, 2**40])
def test_random_words(seed, step):
    places = np.array([0, 1, 2, 65_535, 65_536, 2**32 - 1, 2**32, 2**33 + 5])
    got = random_words(seed, step, places)
    assert got.tolist() == [word(seed, step, int(i)) for i in places]


def test_random_words_are_even():
    words = random_words(12, 34, np.arange(1 << 16))
    for bit in range(16):
        ones = np.count_nonzero(words >> np.uint32(bit) & np.uint32(1))
        assert abs(ones - (1 << 15)) < 5 * (1 << 7)  # five standard deviations
    following = np.corrcoef(words[1:] & np.uint32(0xFFFF), words[:-1] & np.uint32(0xFFFF))
    assert abs(following[0, 1]) < 5 / 2**8


class TestStochastic:
    def test_rounds_to_a_neighbor(self):
        x = np.full(4, 1 + 2.0**-9)  # a quarter of the way from 1 to 1 + 2⁻⁷
        words = np.array([0, 0xBFFF, 0xC000, 0x1FFFF], dtype=np.uint32)
        up = 1 + 2.0**-7
        assert round_stochastic(x, words).tolist() == [1, 1, up, up]
        assert round_stochastic(-x, words).tolist() == [-1, -1, -up, -up]

    def test_what_bfloat16_holds_stays(self):
        rng = np.random.default_rng(0)
        x = BFLOAT16.round(rng.normal(size=1000))
        words = random_words(1, 1, np.arange(1000))
        assert np.array_equal(round_stochastic(x, words), x)

    def test_no_infinity_that_nearest_would_not_make(self):
        largest = BFLOAT16.largest
        just_above, beyond = FLOAT32.step(np.array([largest]), 1)[0], FLOAT32.largest
        words = np.array([0xFFFF] * 2, dtype=np.uint32)
        got = round_stochastic(np.array([just_above, beyond]), words)
        assert got.tolist() == [largest, np.inf]
        kept = round_stochastic(np.array([np.inf, -np.inf, np.nan]), np.resize(words, 3))
        assert np.array_equal(kept, [np.inf, -np.inf, np.nan], equal_nan=True)

    def test_judge_allows_one_number_where_the_step_is_known(self):
        x = np.array([1 + 2.0**-9, 1 + 2.0**-9])
        step = Step(Enclosure.of(x).rounded(), ())
        words = np.array([0, 0xFFFF], dtype=np.uint32)
        right = np.array([1, 1 + 2.0**-7])
        assert judge_stochastic("p", x, step, words, right).passed
        assert judge_stochastic("p", x, step, words, right[::-1]).violations == 2

    def test_mean(self):
        x = FLOAT32.round(1 + np.linspace(0, 0.9, 20_000))
        words = random_words(5, 6, np.arange(x.size))
        assert judge_mean("p", x, round_stochastic(x, words)).passed
        assert not judge_mean("p", x, round_stochastic(x, words & np.uint32(0x7FFF))).passed
        # Always toward the nearest: as many as there should be, which is why each is compared, too.
        assert judge_mean("p", x, BFLOAT16.round(x)).passed


class TestCorrected:
    def test_24_bits_survive(self):
        rng = np.random.default_rng(1)
        x = rng.normal(size=5000) * 2.0 ** rng.integers(-120, 120, 5000)
        x = FLOAT32.decode(FLOAT32.encode(FLOAT32.round(x)) & np.uint32(0xFFFFFF00))
        p, correction = split_master(x)
        assert np.array_equal(join_master(p, correction), x)

    def test_the_part_in_bfloat16_is_the_nearest(self):
        rng = np.random.default_rng(2)
        x = FLOAT32.round(rng.normal(size=5000))
        p, correction = split_master(x)
        master = join_master(p, correction)
        tie = correction.view(np.int8) == -128  # half way: up, and not to even
        assert np.array_equal(BFLOAT16.decode(p)[~tie], BFLOAT16.round(master)[~tie])

    @pytest.mark.parametrize(
        ("bits", "p", "correction"),
        [
            (0x3F800000, 0x3F80, 0),
            (0x3F800080, 0x3F80, 0),  # a tie of the 24 bits: to even
            (0x3F800180, 0x3F80, 2),
            (0x3F808000, 0x3F81, -128),
            (0x3F807F7F, 0x3F80, 127),
            (0xBF808000, 0xBF81, -128),
            (0x3FFFFFFF, 0x4000, 0),  # carries into the exponent
            (0x00000000, 0x0000, 0),
            (0x80000000, 0x8000, 0),
            (0x80000100, 0x8000, 1),
            (0x7F7F7F00, 0x7F7F, 127),
            (0x7F7F8000, 0x7F7F, 127),  # would be infinite in bfloat16
            (0xFF7FFFFF, 0xFF7F, 127),
            (0x7F800000, 0x7F80, 0),
            (0xFF800000, 0xFF80, 0),
            (0x7FC00000, 0x7FC0, 0),
        ],
    )
    def test_numbers(self, bits, p, correction):
        x = FLOAT32.decode(np.array([bits], dtype=np.uint32))
        got_p, got_correction = split_master(x)
        assert (got_p[0], got_correction.view(np.int8)[0]) == (p, correction)

    def test_judge(self):
        x = np.array([1 + 2.0**-15, np.nan])
        step = Step(Enclosure.of(x).rounded(), ())

        def failures(p, correction):
            got = np.array(p, np.uint16), np.array(correction, np.int8).view(np.uint8)
            judged = judge_corrected(("p", "c"), x, step, got)
            return [each.violations for each in judged]

        assert failures([0x3F80, 0x7FC0], [1, 0]) == [0, 0, 0]
        assert failures([0x3F80, 0xFFC1], [1, 0]) == [0, 0, 0]  # NaN has many bit patterns
        assert failures([0x3F80, 0x7FC0], [2, 0]) == [1, 0, 0]
        assert failures([0x3F80, 0x7FC0], [1, 5]) == [0, 0, 1]
        assert failures([0x3F80, 0x3F80], [1, 0])[0] == 1
        # The same master weight, split at another place.
        x[:] = 1 + 2.0**-8
        step = Step(Enclosure.of(x).rounded(), ())
        assert failures([0x3F81, 0x3F81], [-128, -128]) == [0, 0, 0]
        x[:] = FLOAT32.decode(np.array([0x3F80FF00] * 2, dtype=np.uint32))
        step = Step(Enclosure.of(x), ())
        assert failures([0x3F81, 0x3F81], [-1, -1]) == [0, 0, 0]
