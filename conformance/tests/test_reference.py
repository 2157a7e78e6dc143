"""The reference against closed forms, exact rational arithmetic and golden vectors."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kq_conformance import reference
from kq_conformance.floats import FLOAT32, FORMATS
from kq_conformance.reference import RULES, codebook_4bit, codebook_8bit, dynamic_map

GOLDEN = json.loads((Path(__file__).parent / "golden" / "bitsandbytes.json").read_text())
BOOKS = {
    "nf4": codebook_4bit("nf4"),
    "fp4": codebook_4bit("fp4"),
    "dynamic": dynamic_map(True),
    "unsigned": dynamic_map(False),
    "distant": codebook_8bit(np.concatenate([np.arange(-250, 0), [0, 1e-30, 1e-3, 1, 2, 3]])),
}
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


def nearest_by_fractions(x: float, scale: float, book: reference.Codebook) -> int:
    """The definition of the encoder, with rational numbers: least distance, then lower value.

    Among equal values (FP4's zeros) the last for x > 0 and the first otherwise.
    """
    if scale == 0 or not np.isfinite(scale):
        return book.zero
    ratio = Fraction(x) / Fraction(scale)
    distances = [abs(ratio - Fraction(float(value))) for value in book.values]
    least = min(distances)
    candidates = [int(code) for code in book.order if distances[code] == least]
    lowest = book.values[candidates[0]]
    candidates = [code for code in candidates if book.values[code] == lowest]
    return candidates[-1] if x > 0 else candidates[0]


def from_hex(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), dtype=dtype)


def number_array(text: str, dtype: str) -> np.ndarray:
    chosen = FORMATS[dtype]
    return chosen.decode(from_hex(text, chosen.bits_dtype.str))


class TestCodebooks:
    def test_nf4_is_the_table_of_the_paper(self):
        # QLoRA (arXiv:2305.14314), appendix E.
        assert codebook_4bit("nf4").values.tolist() == pytest.approx(
            [
                -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
                -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0,
            ],
            abs=0,
            rel=0,
        )  # fmt: skip

    def test_fp4_is_a_twelfth_of_small_numbers(self):
        positive = [0, 0.0625, 8, 12, 4, 6, 2, 3]
        expected = [float(np.float32(value / 12)) for value in positive]
        values = codebook_4bit("fp4").values
        assert values[:8].tolist() == expected
        assert values[8:].tolist() == [-value for value in expected]
        assert not np.signbit(values[8])

    def test_unknown_type_is_refused(self):
        with pytest.raises(ValueError, match=r"one of \['fp4', 'nf4'\], got 'int4'"):
            codebook_4bit("int4")

    @pytest.mark.parametrize("signed", [True, False])
    def test_dynamic_map_is_the_golden_one(self, signed):
        golden = number_array(GOLDEN["dynamic_map"]["signed" if signed else "unsigned"], "float32")
        assert np.array_equal(dynamic_map(signed).values, golden)

    @pytest.mark.parametrize("signed", [True, False])
    def test_dynamic_map_follows_its_definition(self, signed):
        # Without any rounding: decade i holds 10**(i-6) * (0.1 + 0.9 (k + 1/2) / n). Three
        # roundings to float32 (point, midpoint, product) and those of 0.1 and of the scale stay
        # within 4 units of the last place, 8u.
        exact = [Fraction(0), Fraction(1)]
        for decade in range(7):
            n = 2 ** (decade + (not signed))
            for k in range(n):
                inside = Fraction(1, 10) + Fraction(9, 10) * Fraction(2 * k + 1, 2 * n)
                value = inside * Fraction(10) ** (decade - 6)
                exact += [value, -value] if signed else [value]
        exact = np.array([float(value) for value in sorted(exact)])
        u = FLOAT32.unit_roundoff
        assert np.all(np.abs(dynamic_map(signed).values - exact) <= 8 * u * np.abs(exact))

    def test_8_bit_codebooks_are_checked(self):
        with pytest.raises(ValueError, match="256 ascending"):
            codebook_8bit(np.zeros(255))
        with pytest.raises(ValueError, match="256 ascending"):
            codebook_8bit(-np.arange(256))


class TestEncoding:
    @settings(max_examples=300)
    @given(x=float32s, scale=float32s, name=st.sampled_from(sorted(BOOKS)))
    def test_is_the_nearest_code(self, x, scale, name):
        scale = abs(scale)
        if abs(x) > scale:
            x, scale = np.copysign(scale, x), abs(x)
        got = reference.encode(np.array([x]), np.array([scale]), BOOKS[name])
        assert got[0] == nearest_by_fractions(float(x), float(scale), BOOKS[name])

    @pytest.mark.parametrize("name", sorted(BOOKS))
    @pytest.mark.parametrize("scale", [1.0, 2.0**-140, 0.7, 3.0e38])
    def test_beside_every_midpoint(self, name, scale):
        book = BOOKS[name]
        scale = float(FLOAT32.round(scale))
        # Rational arithmetic over 256 values is slow: every 13th midpoint of the large codebooks.
        chosen = book.thresholds[:: 13 if len(book.values) == 256 else 1]
        near = FLOAT32.round(chosen * scale)
        values = np.concatenate([near, FLOAT32.step(near, 1), FLOAT32.step(near, -1)])
        values = values[np.isfinite(values)]
        got = reference.encode(values, np.full(values.shape, scale), book)
        expected = [nearest_by_fractions(float(x), scale, book) for x in values]
        assert got.tolist() == expected

    def test_ties_go_to_the_lower_code(self):
        even = codebook_8bit((np.arange(256) - 127) / 128)
        middle = even.thresholds
        got = reference.encode(middle, np.ones(255), even)
        assert got.tolist() == list(range(255))

    def test_every_codebook_value_is_its_own_code(self):
        for book in BOOKS.values():
            got = reference.encode(book.values / 4, np.full(book.values.shape, 0.25), book)
            assert np.array_equal(book.values[got], book.values)


class TestFourBit:
    def test_packing_order_and_padding(self):
        packed = reference.pack(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8), zero=7)
        assert packed.tolist() == [[0x12, 0x37], [0x45, 0x67]]
        assert reference.unpack(packed, 3).tolist() == [[1, 2, 3], [4, 5, 6]]

    def test_by_hand(self):
        # Row 0: a block of 32 of which one is not zero, and a tail block of one. Row 1: zeros.
        x = np.zeros((2, 33))
        x[0, 5], x[0, 32] = -2.0, 0.5
        packed, absmax = reference.quantize_4bit(x, "nf4", 32)
        assert absmax.tolist() == [[2.0, 0.5], [0.0, 0.0]]
        codes = reference.unpack(packed, 34)
        assert codes[0, 5] == 0  # −1
        assert codes[0, 32] == 15  # +1
        assert codes[0, 33] == 7  # padding
        assert (np.delete(codes[0], [5, 32]) == 7).all()
        assert (codes[1] == 7).all()

    @pytest.mark.parametrize(
        ("damage", "absmax"), [([np.nan], np.nan), ([-np.inf], np.inf), ([np.inf, np.nan], np.nan)]
    )
    def test_damage_shows_in_its_block_only(self, damage, absmax):
        x = np.ones((1, 96))
        x[0, 40 : 40 + len(damage)] = damage
        packed, scales = reference.quantize_4bit(x, "fp4", 32)
        assert np.array_equal(scales, [[1.0, absmax, 1.0]], equal_nan=True)
        decoded = reference.dequantize_4bit(packed, scales, 96, "fp4", 32, "float32")
        assert np.isnan(decoded[0, 32:64]).all()
        assert (np.delete(decoded[0], np.s_[32:64]) == 1).all()

    @pytest.mark.parametrize(
        "golden",
        GOLDEN["cases"],
        ids=lambda g: f"{g['quant_type']}-{g['dtype']}-b{g['blocksize']}",
    )
    def test_golden(self, golden):
        dtype, shape = golden["dtype"], golden["shape"]
        x = number_array(golden["x"], dtype).reshape(shape)
        packed, absmax = reference.quantize_4bit(x, golden["quant_type"], golden["blocksize"])
        assert packed.tobytes().hex() == golden["packed"]
        assert np.array_equal(absmax.reshape(-1), number_array(golden["absmax"], "float32"))
        decoded = reference.dequantize_4bit(
            packed, absmax, shape[1], golden["quant_type"], golden["blocksize"], dtype
        )
        assert np.array_equal(decoded.reshape(-1), number_array(golden["decoded"], dtype))

    def test_golden_nested_scales(self):
        golden = GOLDEN["nested"]
        codes = from_hex(golden["codes"], "u1").reshape(-1, 1)
        offset = float(number_array(golden["offset"], "float32")[0])
        got = reference.decode_scales(
            codes,
            number_array(golden["nested_absmax"], "float32"),
            dynamic_map(True).values,
            offset,
        )
        assert np.array_equal(got.reshape(-1), number_array(golden["absmax"], "float32"))

    def test_double_quantization_is_near_its_scales(self):
        # The largest gap of the signed dynamic map is 0.9/64 at its ends: half of it, times the
        # nested scale, bounds the error; two float32 roundings come on top.
        rng = np.random.default_rng(0)
        absmax = FLOAT32.round(rng.uniform(0.5, 1.5, (30, 20)))
        codes, nested = reference.quantize_scales(absmax, 1.0)
        got = reference.decode_scales(codes, nested, dynamic_map(True).values, 1.0)
        bound = 0.9 / 128 * nested.max() + 2 * FLOAT32.unit_roundoff * absmax.max()
        assert np.abs(got - absmax).max() <= bound

    def test_empty(self):
        packed, absmax = reference.quantize_4bit(np.zeros((0, 64)), "nf4", 64)
        assert packed.shape == (0, 32)
        assert absmax.shape == (0, 1)


class TestLinear:
    def test_against_fractions(self):
        rng = np.random.default_rng(1)
        x, w, b = rng.normal(size=(3, 7)), rng.normal(size=(2, 7)), rng.normal(size=2)
        y = reference.linear(x, w, b)
        for m in range(3):
            for n in range(2):
                products = [Fraction(x[m, k]) * Fraction(w[n, k]) for k in range(7)]
                exact = sum(products) + Fraction(b[n])
                # Higham (3.5) with the unit roundoff of float64 and K + 1 terms.
                bound = 8 * 2.0**-53 * (sum(map(abs, products)) + abs(Fraction(b[n])))
                assert abs(Fraction(y[m, n]) - exact) <= bound

    def test_gradient_is_the_derivative(self):
        # The layer is linear in x: the difference quotient with step 1 is exact up to rounding.
        rng = np.random.default_rng(2)
        x, w, g = (rng.integers(-8, 8, size=shape) * 1.0 for shape in ((3, 5), (4, 5), (3, 4)))
        gradient = reference.linear_backward(g, w)
        for m, k in np.ndindex(3, 5):
            moved = x.copy()
            moved[m, k] += 1
            change = (g * (reference.linear(moved, w) - reference.linear(x, w))).sum()
            assert gradient[m, k] == change


class TestGrouped:
    """Small integers: every sum is exact."""

    counts = (0, 2, 0, 3, 1, 0)
    owner = (1, 1, 3, 3, 3, 4)  # the expert of each row

    def drawn(self, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        rng = np.random.default_rng(3)
        return [rng.integers(-8, 8, size=shape) * 1.0 for shape in shapes]

    def test_each_row_meets_its_expert(self):
        x, w, b = self.drawn((6, 5), (6, 4, 5), (6, 4))
        y = reference.linear_grouped(x, w, self.counts, b)
        for row, n in np.ndindex(6, 4):
            expert = self.owner[row]
            assert y[row, n] == (x[row] * w[expert, n]).sum() + b[expert, n]

    def test_gradient_is_the_derivative(self):
        x, w, g = self.drawn((6, 5), (6, 4, 5), (6, 4))
        gradient = reference.linear_grouped_backward(g, w, self.counts)
        before = reference.linear_grouped(x, w, self.counts)
        for row, k in np.ndindex(6, 5):
            moved = x.copy()
            moved[row, k] += 1
            change = (g * (reference.linear_grouped(moved, w, self.counts) - before)).sum()
            assert gradient[row, k] == change

    def test_no_rows(self):
        w = np.ones((2, 4, 5))
        assert reference.linear_grouped(np.ones((0, 5)), w, (0, 0)).shape == (0, 4)
        assert reference.linear_grouped_backward(np.ones((0, 4)), w, (0, 0)).shape == (0, 5)


ADAM = RULES["adam"]


def adam(p, g, m, v, step, hyper):
    p, (m, v) = reference.optimizer_step("adam", p, g, (m, v), step, hyper)
    return p, m, v


class TestOptimizer:
    def test_first_step_moves_by_the_learning_rate(self):
        # m̂ = g and v̂ = g² at t = 1: Δp = −η g/(|g| + ε) = −η sign(g) for |g| >> ε.
        g = np.array([3.0, -1e-2, 1e4])
        p, m, v = adam(np.zeros(3), g, np.zeros(3), np.zeros(3), 1, ADAM.hyper(eps=1e-12))
        assert p == pytest.approx(-1e-3 * np.sign(g), rel=1e-9)
        assert m == pytest.approx(0.1 * g)
        assert v == pytest.approx(0.001 * g**2)

    def test_constant_gradient_keeps_moving_by_the_learning_rate(self):
        p, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
        for step in range(1, 6):
            p, m, v = adam(p, np.array([0.5]), m, v, step, ADAM.hyper(lr=0.1, eps=0.0))
        assert p == pytest.approx(-0.5)

    def test_decays(self):
        still = np.zeros(1)
        decoupled = ADAM.hyper(lr=0.1, weight_decay=0.5, eps=1.0, decoupled=True)
        p, m, _ = adam(np.array([2.0]), still, still, still, 1, decoupled)
        assert p == pytest.approx(2.0 * (1 - 0.05))
        assert m == 0
        coupled = ADAM.hyper(lr=0.1, weight_decay=0.5, decoupled=False)
        _, m, v = adam(np.array([2.0]), still, still, still, 1, coupled)
        assert m == pytest.approx(0.1 * 1.0)
        assert v == pytest.approx(0.001 * 1.0)

    def test_maximize_mirrors(self):
        p, g, m = np.array([1.0]), np.array([0.3]), np.array([0.1])
        up = adam(p, g, m, m**2, 3, ADAM.hyper(maximize=True))
        down = adam(p, -g, m, m**2, 3, ADAM.hyper())
        assert up == down

    def test_8_bit_states_are_decoded_updated_and_encoded(self):
        rng = np.random.default_rng(3)
        p, g = rng.normal(size=300), rng.normal(size=300)
        maps = dynamic_map(True).values, dynamic_map(False).values
        states = [
            tuple(
                each.reshape(-1) for each in reference.quantize_blockwise(moment[None], code, 256)
            )
            for moment, code in zip((g / 3, g**2 / 5), maps, strict=True)
        ]
        new_p, (first, second) = reference.optimizer_step_8bit(
            "adam", p, g, tuple(states), maps, 5, ADAM.hyper()
        )
        m, v = (
            reference.decode_state(*state, code) for state, code in zip(states, maps, strict=True)
        )
        expected_p, new_m, new_v = adam(p, g, m, v, 5, ADAM.hyper())
        assert np.array_equal(new_p, expected_p)
        for (codes, absmax), moment, code in zip(
            (first, second), (new_m, new_v), maps, strict=True
        ):
            assert absmax.tolist() == [np.abs(moment[:256]).max(), np.abs(moment[256:]).max()]
            decoded = reference.decode_state(codes, absmax, code)
            # Half of the largest gap, or what the map lacks at its ends (−1 in the signed one);
            # 2**-50: the float64 roundings of the comparison itself.
            lacking = 1 + code[0] if code[0] < 0 else 0
            largest = max(np.diff(code).max() / 2, lacking) * (1 + 2.0**-50)
            assert np.abs(decoded - moment).max() <= largest * absmax.max()
