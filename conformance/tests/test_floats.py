"""Rounding and encoding against NumPy's own casts, and exhaustively where the domain is small."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kq_conformance.floats import BFLOAT16, FLOAT16, FLOAT32, FORMATS, store, values_of

NATIVE = {"float32": np.float32, "float16": np.float16}
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("chosen", [BFLOAT16, FLOAT16], ids=lambda each: each.name)
def test_every_16_bit_pattern_survives(chosen):
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = chosen.decode(bits)
    numbers = ~np.isnan(values)
    assert np.array_equal(chosen.encode(values)[numbers], bits[numbers])
    assert np.array_equal(chosen.round(values)[numbers], values[numbers])
    # NaN patterns: exponent all ones, mantissa not zero.
    assert (~numbers).sum() == 2 * ((1 << (chosen.precision - 1)) - 1)


@pytest.mark.parametrize("name", NATIVE)
@given(x=finite)
def test_rounding_agrees_with_numpy(name, x):
    with np.errstate(over="ignore"):
        expected = np.float64(NATIVE[name](x))
    got = FORMATS[name].round(x)
    assert got == expected
    assert np.signbit(got) == np.signbit(expected)


@given(x=finite)
def test_bfloat16_is_the_nearest_number_and_even_in_a_tie(x):
    got = float(BFLOAT16.round(x))
    if not np.isfinite(got):
        # Beyond the midpoint between the largest number and the next power of two.
        assert abs(x) >= 2.0**128 - 2.0**119
        return
    below, above = (float(BFLOAT16.step(np.array([got]), way)[0]) for way in (-1, 1))
    error = abs(Fraction(x) - Fraction(got))
    for neighbor in (below, above):
        if np.isfinite(neighbor):
            other = abs(Fraction(x) - Fraction(neighbor))
            assert error <= other
            if error == other:
                assert int(BFLOAT16.encode(np.array([got]))[0]) % 2 == 0


@pytest.mark.parametrize("chosen", FORMATS.values(), ids=lambda each: each.name)
def test_steps_go_to_the_neighbor(chosen):
    values = np.array([0.0, -0.0, chosen.tiny, -chosen.tiny, 1.0, -1.0, chosen.largest])
    up, down = chosen.step(values, 1), chosen.step(values, -1)
    epsilon = 2 * chosen.unit_roundoff
    assert list(up[:6]) == [
        chosen.tiny,
        chosen.tiny,
        2 * chosen.tiny,
        0,
        1 + epsilon,
        -1 + epsilon / 2,
    ]
    assert up[6] == np.inf
    assert list(down[:4]) == [-chosen.tiny, -chosen.tiny, 0, -2 * chosen.tiny]
    assert list(down[4:6]) == [1 - epsilon / 2, -1 - epsilon]


def test_encode_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="bfloat16 cannot represent"):
        BFLOAT16.encode(np.array([1 + 2.0**-8]))


def test_nan_is_stored_as_the_quiet_one():
    assert store(np.array([np.nan, -np.nan]), "float32").bits.tolist() == [0x7FC00000] * 2
    assert np.isnan(values_of(store(np.array([np.nan]), "bfloat16")))


def test_constants():
    info = np.finfo(np.float32)
    assert FLOAT32.tiny == info.smallest_subnormal
    assert FLOAT32.largest == info.max
    assert FLOAT32.unit_roundoff == info.eps / 2
    assert FLOAT16.largest == 65504
