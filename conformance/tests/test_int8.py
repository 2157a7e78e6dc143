"""The int8 operations: their reference by hand, their bounds against float32, their inputs."""

from fractions import Fraction

import numpy as np
import pytest

from kq_conformance import reference
from kq_conformance.bounds import (
    Int8Product,
    Quantized,
    Strictness,
    accept_int8_decoded,
    int8_weight_forms,
)
from kq_conformance.cases import Profile, by_id, select
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_inputs import (
    UNUSUAL,
    int8_codes,
    int8_weight,
    threshold_steps,
    with_outliers,
)
from kq_conformance.cases.int8_problems import codes_of
from kq_conformance.cases.int8_products import cancelling
from kq_conformance.floats import FLOAT32, FORMATS, stored_integers, values_of

U = 2.0**-24
NAN, INF = np.nan, np.inf


def float32_codes(x: np.ndarray, absmax: np.ndarray) -> np.ndarray:
    """The format as kernels compute it: rint(x · (127 / absmax)), each step in float32."""
    lift = np.where(absmax < 2.0**-64, np.float32(2.0**64), np.float32(1))
    x, scale = np.float32(x), np.float32(np.where(absmax > 0, absmax, 1)) * lift
    return np.rint(x * lift[:, None] * (np.float32(127) / scale)[:, None]).astype(np.float64)


class TestReference:
    def test_codes_scales_and_outliers(self):
        x = np.array([[1.0, -6.0, 0.5], [2.0, 1.0, -4.0]])
        rows = reference.int8_quantize(x, 6.0)
        assert rows.absmax.tolist() == [1.0, 4.0]
        assert rows.outliers.tolist() == [False, True, False]
        assert rows.codes.tolist() == [[127, 0, 64], [64, 0, -127]]  # 63.5 is a tie

    def test_damage(self):
        x = np.array([[NAN, 1.0, INF], [1.0, -INF, 2.0], [0.0, -0.0, 0.0], [1.0, 2.0, 3.0]])
        rows = reference.int8_quantize(x)
        assert rows.absmax.tolist()[1:] == [INF, 0.0, 3.0]
        assert np.isnan(rows.absmax[0])
        assert not rows.codes[:3].any()
        rows = reference.int8_quantize(x, 5.0)
        assert rows.outliers.tolist() == [False, True, True]
        assert np.isnan(rows.absmax[0])
        assert rows.absmax.tolist()[1:] == [2.0, 0.0, 3.0]
        assert rows.codes[:, 0].tolist() == [0, 64, 0, 42]
        y = reference.int8_linear(x, np.full((1, 3), 127), np.ones(1), threshold=5.0)
        assert np.isnan(y[0])
        assert y[1] == -INF
        assert abs(y[3] - 6.0) < 0.1

    def test_the_nearest_code_by_rational_arithmetic(self):
        rng = np.random.default_rng(0)
        absmax = FLOAT32.round(rng.uniform(0.5, 2, 40) * 2.0 ** rng.integers(-140, 120, 40))
        ties = (rng.integers(-127, 127, (40, 30)) + 0.5) * absmax[:, None] / 127
        x = np.concatenate([FLOAT32.round(ties), absmax[:, None]], axis=1)
        codes = reference.int8_quantize(x).codes
        for place in np.ndindex(x.shape):
            scale = Fraction(float(absmax[place[0]]))
            exact = 127 * Fraction(float(x[place])) / scale
            assert codes[place] == round(exact)  # ties to even, as Python rounds

    def test_the_product_of_the_largest_codes_is_the_product_of_the_scales(self):
        codes = np.full((1, 5), 127)
        y = reference.int8_linear(np.full((1, 5), 2.0), codes, np.array([3.0]), np.array([1.0]))
        assert y == 5 * 2 * 3 + 1
        assert reference.int8_matmul(codes, -codes) == -5 * 127**2

    def test_an_outlier_meets_the_decoded_weight(self):
        x, codes = np.array([[20.0, 0.0], [1.0, 0.0]]), np.array([[100, 3]])
        y = reference.int8_linear(x, codes, np.array([2.0]), threshold=6.0)
        assert np.allclose(y, x[:, :1] * 100 * 2 / 127, rtol=1e-15, atol=0)


class TestCodes:
    @pytest.mark.parametrize("strictness", Strictness)
    @pytest.mark.parametrize("dtype", FORMATS)
    @pytest.mark.parametrize("name", ["random", "ties", "small", "wide", "denormals", "spike"])
    def test_float32_arithmetic_passes(self, name, dtype, strictness):
        x = values_of(UNUSUAL[name](Draw(1), dtype))
        quantized = Quantized.of(x, 0.0, strictness)
        judged = quantized.judge(float32_codes(x, quantized.absmax))
        assert judged.passed
        assert judged.tightness <= 1

    def test_both_neighbors_where_float32_cannot_decide(self):
        # fl(127/3) is too large by 0.6 u of itself.
        x = np.array([[3.0, 1.5, np.nextafter(np.float32(1.5), np.float32(2))]])
        quantized = Quantized.of(x, 0.0, Strictness.EXACT)
        assert quantized.lowest.tolist() == [[127, 63, 63]]
        assert quantized.highest.tolist() == [[127, 64, 64]]
        assert quantized.undecided == 2
        assert not quantized.judge(np.array([[127.0, 65.0, 64.0]])).passed
        assert not quantized.judge(np.array([[126.0, 64.0, 64.0]])).passed

    def test_exact_ties_are_decided_where_nothing_is_rounded(self):
        x = np.array([[127.0, 2.5, -3.5, 0.5], [1.0, 0.5, 0.25, -0.5]])
        quantized = Quantized.of(x, 0.0, Strictness.EXACT)
        assert quantized.undecided == 0
        assert quantized.lowest.tolist() == [[127, 2, -4, 0], [127, 64, 32, -64]]
        assert Quantized.of(x, 0.0, Strictness.MARGIN).undecided == 5

    def test_the_margin_is_that_of_two_roundings(self):
        x = FLOAT32.round(np.random.default_rng(0).normal(size=(50, 1000)))
        quantized = Quantized.of(x, 0.0, Strictness.EXACT)
        assert (quantized.margin <= 127 * 2 * U * (1 + 1e-6)).all()
        computed = np.float32(x) * (np.float32(127) / np.float32(quantized.absmax))[:, None]
        error = np.abs(computed.astype(np.float64) - quantized.ratios)
        used = error / np.maximum(quantized.margin, 1e-300)
        assert 0.8 < used.max() <= 1

    def test_few_codes_are_undecided(self):
        for case in select(Profile.CORE, "int8_linear/int8/float32/m*"):
            problem = case.problem(0)
            x = values_of(problem.x)
            quantized = Quantized.of(x, problem.threshold, Strictness.EXACT)
            assert quantized.undecided <= 1e-4 * x.size + 3, case.id


def summed(*terms: np.ndarray) -> np.ndarray:
    """Add up in float32, in order."""
    total = np.float32(terms[0])
    for term in terms[1:]:
        total = total + np.float32(term)
    return total


class TestProduct:
    def scaled(self, sums: np.ndarray, row: np.ndarray, col: np.ndarray) -> list[np.ndarray]:
        """The orders in which kernels scale a sum."""
        sums, row, col = np.float32(sums), np.float32(row)[:, None], np.float32(col)
        constant = np.float32(1 / 127**2)
        return [
            sums * (row * col * constant),
            sums * ((row * constant) * col),
            (sums * row) * (col * constant),
            (sums * (row / np.float32(127))) * (col / np.float32(127)),
            sums * row * col / np.float32(127**2),
        ]

    @pytest.mark.parametrize("bias", [None, "bias"])
    def test_every_order_passes_and_the_mistyped_constant_fails(self, bias):
        rng = np.random.default_rng(1)
        sums = rng.integers(-(2**31) + 1, 2**31 - 1, (40, 60)).astype(np.float64)
        row, col = (FLOAT32.round(rng.uniform(0.1, 9, size)) for size in sums.shape)
        added = FLOAT32.round(rng.normal(size=60) * 1e3) if bias else None
        allowed = Int8Product.of_sums(sums, row, col, added, "float32")
        for each in self.scaled(sums, row, col):
            result = each if added is None else summed(each, added)
            judged = allowed.judge(result.astype(np.float64))
            assert judged.passed
            assert judged.tightness > 0.3  # the bound is not far
        wrong = np.outer(row, col) * 6.200124e-5 * sums + (0 if added is None else added)
        assert not allowed.judge(FLOAT32.round(wrong)).passed

    def test_outliers_and_bias_in_any_order(self):
        rng = np.random.default_rng(2)
        x = values_of(with_outliers(7, 133)(Draw(3), "float32"))
        codes = rng.integers(-127, 128, (20, 133))
        absmax, bias = (FLOAT32.round(rng.uniform(0.1, 2, 20)) for _ in range(2))
        quantized = Quantized.of(x, 6.0, Strictness.EXACT)
        allowed = Int8Product.of_rows(x, quantized, codes, absmax, bias, "float32")
        sums = float32_codes(np.where(quantized.outliers, 0, x), quantized.absmax) @ codes.T
        weights = np.float32(codes / 127) * np.float32(absmax)[:, None]
        terms = [
            np.float32(x[:, j, None]) * weights[:, j] for j in np.flatnonzero(quantized.outliers)
        ]
        for scaled in self.scaled(sums, quantized.absmax, absmax):
            for order in ([scaled, *terms, bias], [bias, *terms[::-1], scaled]):
                result = summed(*order).astype(np.float64)
                judged = allowed.judge(result)
                assert judged.passed
                assert judged.tightness > 0.05
                result[4, 7] += 1e-3
                assert allowed.judge(result).worst.place == (4, 7)

    def test_an_undecided_code_widens_the_sum_by_its_weight(self):
        x, codes = np.array([[3.0, 1.5, 1.0]]), np.array([[0, 100, 0], [0, -100, 0], [127, 0, 1]])
        quantized = Quantized.of(x, 0.0, Strictness.EXACT)
        allowed = Int8Product.of_rows(x, quantized, codes, np.ones(3), None, "float32")
        assert (allowed.high - allowed.low).tolist() == [[100, 100, 0]]
        for code in (63, 64):
            result = np.array([[100 * code, -100 * code, 127**2 + 42]]) * 3 / 127**2
            assert allowed.judge(FLOAT32.round(result)).passed

    def test_rounding_once_leaves_one_answer_of_16_bits(self):
        sums, bias = np.array([[16129.0 * 257, 16129.0 * 3]]), np.array([2.5, 0.25])
        allowed = Int8Product.of_sums(sums, np.ones(1), np.ones(2), bias, "bfloat16")
        assert allowed.judge(np.array([[260.0, 3.25]])).passed
        # 257 is 256 in bfloat16, and 258.5 is 258.
        assert not allowed.judge(np.array([[258.0, 3.25]])).passed


class TestDecoded:
    def test_either_order_passes_and_an_overflow_does_not(self):
        codes = np.tile(np.arange(-128, 128), (4, 1))
        absmax = FLOAT32.round(np.array([1.0, 3.3e38, 2.0**-149, 0.7]))
        allowed = accept_int8_decoded(codes, absmax, "float32")
        one, scale = np.float32(127), np.float32(absmax)[:, None]
        with np.errstate(over="ignore"):
            orders = [scale / one * np.float32(codes), np.float32(codes) / one * scale]
            late = (np.float32(codes) * scale) / one
        for each in orders:
            assert allowed.judge(each.astype(np.float64)).passed
        assert np.isinf(late[1]).any()
        judged = allowed.judge(late.astype(np.float64))
        assert not judged.passed
        assert judged.worst.place[0] == 1

    def test_damage_shows(self):
        allowed = accept_int8_decoded(np.zeros((2, 1), int), np.array([NAN, INF]), "float16")
        assert allowed.judge(np.full((2, 1), NAN)).passed
        assert not allowed.judge(np.zeros((2, 1))).passed

    def test_weights_of_gradients_enclose_what_is_decoded(self):
        weight = int8_weight(Draw(0), 9, 33)
        codes, scale = codes_of(weight.codes), np.float32(weight.scales)[:, None]
        (form, *_) = int8_weight_forms(codes, weight.scales, "float32")
        held = (scale / np.float32(127)) * np.float32(codes)
        assert (np.abs(held - form.value) <= form.radius + U * np.abs(form.value)).all()


class TestInputs:
    @pytest.mark.parametrize("dtype", FORMATS)
    def test_outliers_stand_where_they_are_missed(self, dtype):
        x = values_of(with_outliers(7, 133)(Draw(5), dtype))
        elements = np.abs(x) >= 6
        assert elements[-1, -1]
        assert elements[1].any()
        assert elements.sum() == elements.any(axis=0).sum() <= 3
        assert np.abs(x[1, ~elements[1]]).max() == 5.5 == x[1, -1]
        assert not x[0].any()

    @pytest.mark.parametrize("dtype", FORMATS)
    def test_thresholds_are_met_exactly(self, dtype):
        x = values_of(threshold_steps(6.0)(Draw(5), dtype))
        around = [FORMATS[dtype].step(np.array([6.0]), way)[0] for way in (-1, 1)]
        assert {6.0, -6.0, *around, *(-each for each in around)} <= set(x.ravel())
        assert (np.abs(x).max(axis=0) >= around[0]).sum() == 6

    @pytest.mark.parametrize("dtype", FORMATS)
    def test_ties_of_codes_and_their_neighbors(self, dtype):
        x = values_of(UNUSUAL["ties"](Draw(0), dtype))
        ratios = 127 * x[:3] / np.abs(x[:3]).max(axis=1, keepdims=True)
        assert (np.abs(ratios - np.floor(ratios)) == 0.5).sum() > 60

    def test_sums_need_all_of_their_bits(self):
        codes = codes_of(cancelling(Draw(0), 3, 8193))
        partial = np.cumsum(127 * codes, axis=1)
        assert (np.abs(partial).max(axis=1) > 2**25).all()
        assert (np.abs(partial[:, -1]) < 2**15).all()
        largest = by_id("int8_linear_matmul/int8/int8/k131072/largest").problem(0)
        sums = reference.int8_matmul(codes_of(largest.a), codes_of(largest.b))
        assert np.abs(sums).max() == 127**2 * 2**17 > 0.98 * 2**31

    def test_all_codes_are_all_codes(self):
        assert codes_of(int8_codes(Draw(0), 40, 100, largest=128)).min() == -128
        assert set(codes_of(int8_codes(Draw(0), 40, 100)).ravel()) == set(range(-127, 128))

    def test_decided_rows_leave_one_sum(self):
        problem = by_id("int8_linear/int8/bfloat16/decided-m5-n33-k257").problem(0)
        assert Quantized.of(values_of(problem.x), 0.0, Strictness.EXACT).undecided == 0

    def test_integers_and_truth_values_survive(self):
        for dtype, values in {"int8": [-128, 127], "int32": [-(2**31), 5], "bool": [0, 1]}.items():
            assert values_of(stored_integers(np.array(values), dtype)).tolist() == values
