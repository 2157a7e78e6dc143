"""The reference against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from kq_conformance import reference
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.floats import FLOAT16, FLOAT32, FORMATS, FloatFormat
from kq_conformance.reference import RULES, codebook_4bit, dynamic_map

U64 = Fraction(1, 2**53)


def rounded(x: Fraction, to: FloatFormat) -> float:
    """IEEE 754 rounding to nearest, ties to even, by integers alone."""
    if x == 0:
        return 0.0
    size = abs(x)
    exponent = 0
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while size < Fraction(2) ** exponent:
        exponent -= 1
    spacing = Fraction(2) ** (max(exponent, to.emin) - to.precision + 1)
    count, rest = divmod(size, spacing)
    count += rest * 2 > spacing or (rest * 2 == spacing and count % 2 == 1)
    value = count * spacing
    value = float("inf") if value > Fraction(to.largest) else float(value)
    return value if x > 0 else -value


def random_scales(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return FLOAT32.round(rng.uniform(0.5, 2, shape) * 2.0 ** rng.integers(-20, 5, shape))


@pytest.mark.parametrize("chosen", FORMATS.values(), ids=lambda each: each.name)
def test_rounding_by_integers_is_the_rounding_of_the_formats(chosen):
    rng = np.random.default_rng(0)
    values = rng.normal(size=300) * 2.0 ** rng.integers(chosen.emin - 30, chosen.emax + 3, 300)
    ties = chosen.round(values[:50])
    ties = ties[np.isfinite(ties)]
    values = np.concatenate([values, chosen.preimage(ties)[1], [chosen.largest, 0.0]])
    assert [rounded(Fraction(x), chosen) for x in values] == chosen.round(values).tolist()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_dequantize_4bit(quant_type, dtype):
    rng = np.random.default_rng(1)
    packed = rng.integers(0, 256, (3, 35)).astype(np.uint8)
    absmax = random_scales(rng, 3, 3)
    got = reference.dequantize_4bit(packed, absmax, 69, quant_type, 32, dtype)
    table = codebook_4bit(quant_type).values
    for row, col in np.ndindex(3, 69):
        byte = int(packed[row, col // 2])
        code = byte >> 4 if col % 2 == 0 else byte & 15
        exact = Fraction(table[code]) * Fraction(absmax[row, col // 32])
        assert got[row, col] == rounded(Fraction(rounded(exact, FLOAT32)), FORMATS[dtype])


def test_nested_scales():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (5, 103)).astype(np.uint8)
    nested = random_scales(rng, 3)
    offset = 0.0625 + float(FLOAT32.round(0.01))
    table = dynamic_map(True).values
    got = reference.decode_scales(codes, nested, table, offset)
    for place, code in enumerate(codes.reshape(-1)):
        product = rounded(Fraction(table[code]) * Fraction(nested[place // 256]), FLOAT32)
        assert got.reshape(-1)[place] == rounded(Fraction(product) + Fraction(offset), FLOAT32)


def test_quantized_scales_are_the_nearest():
    rng = np.random.default_rng(3)
    absmax = FLOAT32.round(rng.uniform(0.5, 1.5, (4, 70)))
    offset = float(FLOAT32.round(absmax.mean()))
    codes, nested = reference.quantize_scales(absmax, offset)
    residual = [rounded(Fraction(x) - Fraction(offset), FLOAT32) for x in absmax.reshape(-1)]
    assert nested.tolist() == [max(map(abs, residual[:256])), max(map(abs, residual[256:]))]
    table = [Fraction(value) for value in dynamic_map(True).values]
    for place, code in enumerate(codes.reshape(-1)):
        ratio = Fraction(residual[place]) / Fraction(nested[place // 256])
        assert code == min(range(256), key=lambda c: (abs(table[c] - ratio), c))


@pytest.mark.parametrize("name", sorted(CODE_MAPS))
@pytest.mark.parametrize("dtype", FORMATS)
def test_blockwise_both_ways(name, dtype):
    rng = np.random.default_rng(4)
    code = CODE_MAPS[name]()
    table = [Fraction(value) for value in code]
    x = FORMATS[dtype].round(rng.normal(size=(2, 40)))
    codes, absmax = reference.quantize_blockwise(x, code, 16)
    decoded = reference.dequantize_blockwise(codes, code, absmax, 16, dtype)
    for row, col in np.ndindex(2, 40):
        block = x[row, col // 16 * 16 : col // 16 * 16 + 16]
        scale = max(abs(Fraction(each)) for each in block)
        assert absmax[row, col // 16] == float(scale)
        ratio = Fraction(x[row, col]) / scale
        # Of equal values (padding of the map) the last below, the first above: as thresholds say.
        nearest = min(abs(value - ratio) for value in table)
        assert abs(table[codes[row, col]] - ratio) == nearest
        exact = rounded(table[codes[row, col]] * scale, FLOAT32)
        assert decoded[row, col] == rounded(Fraction(exact), FORMATS[dtype])


def test_gradient_by_fractions():
    rng = np.random.default_rng(5)
    grad, weight = rng.normal(size=(3, 6)), rng.normal(size=(6, 4))
    got = reference.linear_backward(grad, weight)
    for m, k in np.ndindex(3, 4):
        products = [Fraction(grad[m, n]) * Fraction(weight[n, k]) for n in range(6)]
        # Six products, five sums in float64.
        assert abs(Fraction(got[m, k]) - sum(products)) <= 7 * U64 * sum(map(abs, products))


class TestAdam:
    """m and v are rational; the root is bounded by squaring what it must have been."""

    @pytest.mark.parametrize("decoupled", [True, False])
    @pytest.mark.parametrize("maximize", [True, False])
    @pytest.mark.parametrize("step", [1, 2, 30])
    def test_one_step(self, decoupled, maximize, step):
        hyper = RULES["adam"].hyper(
            lr=1e-2, beta2=0.99, eps=1e-3, weight_decay=0.1, decoupled=decoupled, maximize=maximize
        )
        lr, beta1, beta2, eps, decay = (
            Fraction(each) for each in (hyper.lr, *hyper.own.values(), hyper.weight_decay)
        )
        rng = np.random.default_rng(6)
        p, g, m = rng.normal(size=(3, 20))
        v = rng.uniform(0, 1, 20)
        moved_p, moments = reference.optimizer_step("adam", p, g, (m, v), step, hyper)
        got = (moved_p, *moments)
        for i in range(20):
            p_i, g_i, m_i, v_i = (Fraction(each[i]) for each in (p, g, m, v))
            g_i = -g_i if maximize else g_i
            start = p_i * (1 - lr * decay) if decoupled else p_i
            g_i = g_i if decoupled else g_i + decay * p_i
            new_m, new_v = beta1 * m_i + (1 - beta1) * g_i, beta2 * v_i + (1 - beta2) * g_i**2
            sizes = abs(beta1 * m_i) + abs(g_i) + abs(p_i)
            assert abs(Fraction(got[1][i]) - new_m) <= 8 * U64 * sizes
            assert abs(Fraction(got[2][i]) - new_v) <= 16 * U64 * (v_i + sizes**2)
            # p_new = start − η m̂ / (√v̂ + ε) gives √v̂ = η m̂ / (start − p_new) − ε.
            moved = start - Fraction(got[0][i])
            m_hat, v_hat = new_m / (1 - beta1**step), new_v / (1 - beta2**step)
            root = lr * m_hat / moved - eps
            # `moved` carries the rounding of p, relative to itself; m̂ that of its numerator.
            error = 64 * U64 * (1 + abs(start / moved) + sizes / abs(new_m))
            assert abs(root**2 / v_hat - 1) <= 4 * error * (1 + eps / root)

    def test_moments_beyond_float32_are_infinite(self):
        g = np.array([2.0**80, 2.0**127, -FLOAT32.largest])
        zeros = (np.zeros(3), np.zeros(3))
        usual = RULES["adam"].hyper()
        p, (m, v) = reference.optimizer_step("adam", np.ones(3), g, zeros, 1, usual)
        assert np.isinf(v).all()
        assert m == pytest.approx(0.1 * g)
        assert (p == 1).all()  # divided by infinity

    def test_8_bit_step_of_a_damaged_block(self):
        maps = dynamic_map(True).values, dynamic_map(False).values
        codes = np.full(300, 127, np.uint8), np.zeros(300, np.uint8)
        states = tuple((each, np.ones(2)) for each in codes)
        g = np.full(300, 0.5)
        g[10] = np.inf
        usual = RULES["adam"].hyper()
        p, (first, second) = reference.optimizer_step_8bit(
            "adam", np.zeros(300), g, states, maps, 1, usual
        )
        for (new, absmax), zero in ((first, 127), (second, 0)):
            assert np.isinf(absmax[0])
            assert np.isfinite(absmax[1])
            assert (new[:256] == zero).all()
            assert (new[256:] == 255).all()
        assert np.isnan(p[10])
        assert np.isfinite(np.delete(p, 10)).all()


def test_float16_results_overflow_to_infinity():
    packed = np.array([[0xF0]], dtype=np.uint8)  # +1 and −1
    got = reference.dequantize_4bit(packed, np.array([[1e5]]), 2, "nf4", 32, "float16")
    assert got.tolist() == [[np.inf, -np.inf]]
    kept = reference.dequantize_4bit(packed, np.array([[65519.0]]), 2, "nf4", 32, "float16")
    assert kept.tolist() == [[FLOAT16.largest, -FLOAT16.largest]]
