"""The bounds contain what they must, and no more than they say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kq_conformance.bounds import (
    Bits,
    Enclosure,
    GroupedProduct,
    Interval,
    Judgement,
    Product,
    Rule,
    Strictness,
    accept_codes,
    accept_decoded,
    enclose_step,
    exact_scales,
    scale_enclosure,
    weight_forms,
)
from kq_conformance.floats import BFLOAT16, FLOAT32, FORMATS, store
from kq_conformance.reference import (
    RULES,
    codebook_4bit,
    codebook_8bit,
    decode_scales,
    dynamic_map,
    optimizer_step,
)

RULE = Rule("test", "statement", "source")
U = 2.0**-24
numbers = st.floats(-1e3, 1e3, width=32)


def one(*values: float) -> np.ndarray:
    return np.array(values)


class TestInterval:
    def interval(self, low: float, high: float, expected: float = 1.0) -> Interval:
        return Interval("out", one(expected), one(low), one(high), RULE)

    def test_inside_and_outside(self):
        interval = self.interval(0.5, 2.0)
        assert interval.judge(one(1.5)).tightness == 0.5
        assert interval.judge(one(0.5)).passed
        beyond = interval.judge(one(3.0))
        assert not beyond.passed
        assert beyond.tightness == 2.0
        assert beyond.worst.got == 3.0

    def test_nan_only_where_expected(self):
        assert not self.interval(0.5, 2.0).judge(one(np.nan)).passed
        damaged = self.interval(np.nan, np.nan, np.nan)
        assert damaged.judge(one(np.nan)).passed
        assert not damaged.judge(one(1.0)).passed

    def test_infinities_must_agree(self):
        interval = self.interval(np.inf, np.inf, np.inf)
        assert interval.judge(one(np.inf)).passed
        assert not interval.judge(one(-np.inf)).passed
        assert not interval.judge(one(1e300)).passed

    def test_exact_answers_have_no_room(self):
        assert self.interval(1.0, 1.0).judge(one(1.0)).tightness == 0
        assert self.interval(1.0, 1.0).judge(one(1 + 2e-16)).tightness == np.inf

    def test_sign_of_zero_on_request(self):
        strict = Interval("out", one(0.0), one(0.0), one(0.0), RULE, signed_zero=True)
        assert not strict.judge(one(-0.0)).passed
        assert Interval("out", one(0.0), one(0.0), one(0.0), RULE).judge(one(-0.0)).passed

    def test_empty(self):
        nothing = np.zeros((0, 3))
        judgement = Interval("out", nothing, nothing, nothing, RULE).judge(nothing)
        assert judgement.passed
        assert judgement.worst is None


def test_bits_tell_nan_patterns_apart():
    expected = store(one(np.nan), "float32")
    assert Bits("absmax", expected, RULE).judge(expected).passed
    other = store(one(np.nan), "float32")
    other.bits[0] |= 1
    assert not Bits("absmax", expected, RULE).judge(other).passed


class TestCodes:
    even = codebook_8bit((np.arange(256) - 127) / 128)

    def test_exact_allows_one_code(self):
        accepted = accept_codes("codes", one(1.5 / 128), one(1.0), self.even, Strictness.EXACT)
        assert accepted.judge(np.array([128], dtype=np.uint8)).passed
        assert not accepted.judge(np.array([129], dtype=np.uint8)).passed

    @pytest.mark.parametrize(("distance", "allowed"), [(0, True), (3, True), (3.1, False)])
    def test_margin_is_three_roundings_of_the_midpoint(self, distance, allowed):
        midpoint = 1.5 / 128
        x = midpoint * (1 + distance * U)  # the nearest code is the upper one, except in the tie
        accepted = accept_codes("codes", one(x), one(1.0), self.even, Strictness.MARGIN)
        lower, upper = (accepted.judge(np.array([c], dtype=np.uint8)) for c in (128, 129))
        assert upper.passed
        assert lower.passed is allowed
        assert lower.figures["ambiguous"] == allowed
        assert not accepted.judge(np.array([130], dtype=np.uint8)).passed

    def test_margin_lets_equal_values_stand_for_each_other(self):
        book = codebook_4bit("fp4")
        for strictness, allowed in ((Strictness.MARGIN, True), (Strictness.EXACT, False)):
            accepted = accept_codes("codes", one(0.0), one(1.0), book, strictness)
            assert accepted.judge(np.array([0], dtype=np.uint8)).passed
            assert accepted.judge(np.array([8], dtype=np.uint8)).passed is allowed


class TestDecoding:
    def test_margin_allows_double_rounding_and_nothing_else(self):
        # 1 + 2^-8 + 2^-25 lies just above a tie of bfloat16: rounded to float32 first it becomes
        # the tie, and goes to the even neighbor below.
        value = 1 + 2.0**-8 + 2.0**-25
        expected = BFLOAT16.round(FLOAT32.round(one(value)))
        assert expected == 1.0
        accepted = accept_decoded(
            expected, one(value), exact_scales(one(1.0)), "bfloat16", Strictness.MARGIN
        )
        assert accepted.judge(one(1 + 2.0**-7)).passed
        assert accepted.judge(one(1.0)).passed
        assert not accepted.judge(one(1 - 2.0**-8)).passed

    def test_nested_scales_are_enclosed(self):
        rng = np.random.default_rng(0)
        codes = rng.integers(0, 256, (20, 30)).astype(np.uint8)
        nested = FLOAT32.round(rng.uniform(0.01, 0.1, 3))
        offset = float(FLOAT32.round(0.2))
        code = dynamic_map(True).values
        got = scale_enclosure(codes, nested, code, offset, Strictness.MARGIN)
        exact = decode_scales(codes, nested, code, offset)
        fused = FLOAT32.round(code[codes] * np.repeat(nested, 256)[:600].reshape(20, 30) + offset)
        for way in (exact, fused):
            assert np.all((got.low <= way) & (way <= got.high))
        # Two roundings of values below 0.3: nothing wider is granted.
        assert np.all(got.high - got.low <= 4 * U * 0.3 * 1.001)
        strict = scale_enclosure(codes, nested, code, offset, Strictness.EXACT)
        assert np.array_equal(strict.low, exact)


class TestEnclosure:
    @given(a=numbers, b=numbers, c=st.floats(2.0**-20, 1e3, width=32))
    def test_contains_float32_arithmetic(self, a, b, c):
        A, B, C = (Enclosure.of(one(float(each))) for each in (a, b, c))
        x, y, z = np.float32(a), np.float32(b), np.float32(c)
        for enclosure, value in (
            ((A * B).rounded(), x * y),
            ((A + B).rounded(), x + y),
            ((A - B).rounded(), x - y),
            (A.over(C).rounded(), x / z),
            (C.root().rounded(), np.sqrt(z)),
            (A.squared().rounded(), x * x),
            (((A * B).rounded() - C).rounded(), x * y - z),
        ):
            assert enclosure.low[0] <= float(value) <= enclosure.high[0]

    def test_rounded_is_no_wider_than_it_says(self):
        wide = Enclosure.of(one(1.0)).rounded(3)
        assert 3 * U <= wide.high[0] - 1 <= 3 * U * (1 + 2.0**-19)

    def test_rounding_keeps_signs_and_zero(self):
        around = Enclosure(one(0.0, -1e-45, 0.0), one(0.0, 0.0, 1e-45)).rounded(3)
        assert around.low[0] == around.high[0] == around.high[1] == around.low[2] == 0
        assert around.low[1] < 0 < around.high[2]

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_rounding_overflows_where_float32_does(self, sign):
        # The midpoint between the largest number and 2**128 rounds to infinity.
        ends = sign * np.array([2.0**127, 2.0**128 - 2.0**103, 2.0**130])
        rounded = Enclosure.of(ends).rounded()
        with np.errstate(over="ignore"):
            assert np.isinf(np.float32(ends)).tolist() == [False, True, True]
        near, far = (rounded.low, rounded.high) if sign > 0 else (rounded.high, rounded.low)
        assert np.isinf(near).tolist() == [False, False, True]
        assert np.isinf(far).tolist() == [False, True, True]

    def test_a_sum_with_zero_is_exact(self):
        zero, wide = Enclosure.of(one(0.0)), Enclosure(one(1.0), one(1.5))
        for total in (zero.plus(wide), wide.plus(zero)):
            assert (total.low[0], total.high[0]) == (1.0, 1.5)
        assert wide.plus(wide).high[0] > 3.0

    @pytest.mark.parametrize("factor", [0.0, 1.0, 0.5])
    def test_constants(self, factor):
        product = Enclosure.of(one(3.0)).by_constant(factor)
        width = product.high[0] - product.low[0]
        # Two roundings, also of what would not need them; but 0 and 1 are not even multiplied with.
        assert width == pytest.approx(0 if factor in (0, 1) else 2 * 2 * U * 1.5, rel=1e-5)

    def test_squares_across_zero_start_at_zero(self):
        squared = Enclosure(one(-2.0), one(1.0)).squared()
        assert (squared.low[0], squared.high[0]) == (0.0, 4.0)


class TestLinear:
    def product(self, dtype: str, bias: bool) -> tuple[Product, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(4)
        x = FLOAT32.round(rng.normal(size=(4, 50))) if dtype == "float32" else None
        x = BFLOAT16.round(rng.normal(size=(4, 50))) if x is None else x
        values = codebook_4bit("nf4").values[rng.integers(0, 16, (6, 50))]
        scales = exact_scales(np.full((6, 50), 0.125))
        forms = [form.transposed for form in weight_forms(values, scales, dtype)]
        b = BFLOAT16.round(rng.normal(size=6)) if bias else None
        return Product(x, forms, b, dtype), x, values * 0.125

    @pytest.mark.parametrize("bias", [True, False])
    def test_float32_in_either_order_passes(self, bias):
        product, x, w = self.product("float32", bias)
        products = (x[:, None, :] * w[None]).astype(np.float32)
        for order in (slice(None), slice(None, None, -1)):
            y = np.cumsum(products[..., order], axis=2, dtype=np.float32)[..., -1]
            y = y if product.bias is None else y + product.bias.astype(np.float32)
            judgement = product.judge(y.astype(np.float64))
            assert judgement.passed
            assert judgement.figures["statistical"] < 1

    def test_each_form_of_the_weights_is_recognized(self):
        product, x, _ = self.product("bfloat16", bias=False)
        names = []
        for form in product.forms:
            judgement = product.judge(BFLOAT16.round(x @ form.value))
            assert judgement.passed
            names.append(judgement.rule.name)
        assert names[1] == "linear, weights as bfloat16"

    def test_each_group_has_one_form_of_its_weights(self):
        # Each row picks one code, and its result tells in which form the weight was held.
        values = codebook_4bit("nf4").values[None]
        forms = weight_forms(values, exact_scales(np.full((1, 16), 0.1)), "bfloat16")
        part = Product(np.eye(16), [form.transposed for form in forms], None, "bfloat16")
        whole = GroupedProduct([part, replace(part, a=part.a[:0]), part])

        def judged(*indices: int) -> Judgement:
            results = [BFLOAT16.round(part.a @ part.forms[i].value) for i in indices]
            return whole.judge(np.concatenate(results))

        assert judged(1, 1).passed
        assert judged(1, 2).passed
        mixed = BFLOAT16.round(part.a @ part.forms[1].value)
        mixed[:2] = BFLOAT16.round(part.a @ part.forms[2].value)[:2]
        assert not whole.judge(np.concatenate([mixed, mixed])).passed

    def test_each_group_has_its_bias(self):
        parts = [self.product("float32", bias=True)[0] for _ in range(2)]
        parts[1] = replace(parts[1], bias=parts[1].bias + 1)
        results = [part.a @ part.forms[0].value for part in parts]
        right = np.concatenate([y + part.bias for y, part in zip(results, parts, strict=True)])
        assert GroupedProduct(parts).judge(right).passed
        right[5, 2] -= 1
        judgement = GroupedProduct(parts).judge(right)
        assert judgement.violations == 1
        assert judgement.worst.place == (5, 2)

    def test_one_wrong_product_fails(self):
        product, x, w = self.product("float32", bias=False)
        y = x @ w.T
        assert product.judge(y).passed
        y[2, 3] += x[2, 0] * w[3, 0] * 1e-2
        judgement = product.judge(y)
        assert judgement.violations == 1
        assert judgement.worst.place == (2, 3)

    @staticmethod
    def float32_sum(terms: np.ndarray, tree: np.random.Generator) -> float:
        """Sum in float32 along a random binary tree."""
        values = list(terms.astype(np.float32))
        while len(values) > 1:
            i, j = tree.choice(len(values), 2, replace=False)
            total = values[i] + values[j]
            values = [each for k, each in enumerate(values) if k not in (i, j)] + [total]
        return float(values[0])

    @pytest.mark.parametrize("kind", ["mixed", "positive", "cancelling", "swamped"])
    def test_any_order_of_summation_passes(self, kind):
        rng = np.random.default_rng(7)
        x = np.abs(rng.normal(size=(1, 40)))
        if kind == "mixed":
            x *= rng.choice([-1, 1], (1, 40))
        elif kind == "cancelling":
            x[0, 20:] = -x[0, :20] * (1 + 1e-6)
        elif kind == "swamped":  # each small term is lost, if it is added to the large one
            x = np.full((1, 40), U * 0.99)
            x[0, 0] = 1.0
        x = FLOAT32.round(x)
        form = weight_forms(np.ones((1, 40)), exact_scales(np.ones((1, 40))), "float32")[0]
        product = Product(x, [form.transposed], None, "float32")
        orders = [np.sort(x[0]), np.sort(x[0])[::-1], x[0]]
        sums = [float(np.cumsum(each, dtype=np.float32)[-1]) for each in orders]
        sums += [self.float32_sum(x[0], rng) for _ in range(20)]
        judged = [product.judge(np.array([[total]])) for total in sums]
        assert all(each.passed for each in judged)
        if kind == "swamped":  # the worst order comes near the bound
            assert max(each.tightness for each in judged) > 0.9

    def test_products_of_zero_are_not_counted(self):
        x = np.zeros((1, 1000))
        x[0, [3, 700]] = 1.0, 3.0
        form = weight_forms(np.full((1, 1000), 0.3), exact_scales(np.ones((1, 1000))), "float32")[0]
        product = Product(x, [form.transposed], None, "float32")
        exact = 4.0 * 0.3
        # Two roundings of each product, one sum.
        assert product.judge(np.array([[exact * (1 + 2.9 * U)]])).passed
        assert not product.judge(np.array([[exact * (1 + 3.1 * U)]])).passed

    def test_terms_of_both_signs_get_half(self):
        x = np.array([[1.0, -1.0] * 100])
        form = weight_forms(np.ones((1, 200)), exact_scales(np.ones((1, 200))), "float32")[0]
        product = Product(x, [form.transposed], None, "float32")
        # γ_2 · 200 + 199 u · 100, instead of γ_201 · 200.
        allowed = (2 * 200 + 199 * 100) * U
        assert product.judge(np.array([[allowed]])).passed
        assert not product.judge(np.array([[allowed * 1.001]])).passed

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_a_bias_may_be_added_to_a_rounded_product(self, dtype):
        to = FORMATS[dtype]
        half = to.unit_roundoff
        x, weight, bias = np.array([[1.0, half / 2]]), np.ones((1, 2)), np.array([half])
        forms = [each.transposed for each in weight_forms(weight, exact_scales(weight), dtype)]
        product = Product(x, forms, bias, dtype)
        together, apart = to.round(1 + 1.5 * half), to.round(to.round(1 + half / 2) + half)
        assert together != apart
        for answer in (together, apart):
            assert product.judge(np.array([[answer]])).passed
        assert not product.judge(np.array([[1 + 4 * half]])).passed


ADAM = RULES["adam"]


def points(*states):
    """States that are known exactly."""
    return tuple(Enclosure.of(each) for each in states)


class TestOptimizer:
    @pytest.mark.parametrize("decoupled", [True, False])
    @pytest.mark.parametrize("form", ["folded", "textbook"])
    def test_both_ways_to_write_adam_are_enclosed(self, decoupled, form):
        rng = np.random.default_rng(5)
        f = np.float32
        p, g, m = (rng.normal(size=2000).astype(f) for _ in range(3))
        v = (m**2 + rng.uniform(0, 1, 2000)).astype(f)
        hyper = ADAM.hyper(lr=1e-2, weight_decay=0.1, decoupled=decoupled)
        p64, g64, *states = (each.astype(np.float64) for each in (p, g, m, v))
        bound = enclose_step("adam", p64, g64, points(*states), 7, hyper)

        q = p * f(1 - 1e-3) if decoupled else p
        h = g if decoupled else g + f(0.1) * p
        new_m = f(0.9) * m + f(1 - 0.9) * h
        new_v = f(0.999) * v + f(1 - 0.999) * h * h
        c1, c2 = 1 - 0.9**7, np.sqrt(1 - 0.999**7)
        if form == "folded":
            new_p = q - f(1e-2 * c2 / c1) * (new_m / (np.sqrt(new_v) + f(1e-8 * c2)))
        else:
            new_p = q - f(1e-2) * (new_m / f(c1)) / (np.sqrt(new_v) / f(c2) + f(1e-8))
        expected, new_states = optimizer_step("adam", p64, g64, tuple(states), 7, hyper)
        for got, exact, allowed in zip(
            (new_p, new_m, new_v),
            (expected, *new_states),
            (bound.p, *bound.states),
            strict=True,
        ):
            assert np.all((allowed.low <= exact) & (exact <= allowed.high))
            assert np.all((allowed.low <= got) & (got <= allowed.high))

    def test_bound_is_a_few_roundings_wide(self):
        p, g, m, v = (np.array([each]) for each in (1.0, 0.5, 0.25, 0.25))
        bound = enclose_step("adam", p, g, points(m, v), 10, ADAM.hyper())
        # p moves by about 1e-3: its error is one rounding of p and about 15 of the update.
        assert bound.p.high[0] - bound.p.low[0] <= 2 * U * (1 + 20 * 1e-3)

    def test_nothing_to_do_is_exact(self):
        rng = np.random.default_rng(8)
        p, zero = FLOAT32.round(rng.normal(size=50)), np.zeros(50)
        for hyper in (ADAM.hyper(), ADAM.hyper(lr=0.0, weight_decay=0.1, decoupled=True)):
            bound = enclose_step("adam", p, zero, points(zero, zero), 3, hyper)
            for enclosure, value in ((bound.p, p), *((each, zero) for each in bound.states)):
                assert np.array_equal(enclosure.low, value)
                assert np.array_equal(enclosure.high, value)

    def test_squares_that_overflow_may_do_so_early(self):
        # g² overflows; (1 − β₂) g² does in the second only.
        g = np.array([2.0**66, 2.0**75])
        zeros = (0 * g, 0 * g)
        bound = enclose_step("adam", g, g, points(*zeros), 1, ADAM.hyper())
        v = bound.states[1]
        assert v.low[0] == pytest.approx(1e-3 * 2.0**132)
        assert np.isinf([v.low[1], *v.high]).all()
        assert bound.p.high[1] == g[1]
        assert optimizer_step("adam", g, g, zeros, 1, ADAM.hyper())[0][1] == g[1]

    def test_a_subnormal_product_may_be_divided_afterwards(self):
        # p + value · m / denominator with value = −η/c₁, as torch's addcdiv has it: value · m loses
        # bits that the division by ε brings back to the normal range.
        m, zero = FLOAT32.round(one(1e-40)), one(0.0)
        hyper, step = ADAM.hyper(eps=1e-8), 3
        bound = enclose_step("adam", zero, zero, points(m, zero), step, hyper)
        value = np.float32(-hyper.lr / (1 - 0.9**step))
        moment = np.float32(0.9) * m.astype(np.float32)
        got = value * moment / np.float32(1e-8)
        assert got < 0
        assert bound.p.low <= got <= bound.p.high
