"""What the inputs of cases hold: without it a case would not ask what its name says."""

from typing import Any

import numpy as np
import pytest

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Mode, Profile, by_id, select
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.grouped import COUNTS
from kq_conformance.cases.matrices import MATRICES, anchored_sweep, midpoints, natural_sweep
from kq_conformance.floats import BFLOAT16, FLOAT32, FORMATS, values_of
from kq_conformance.reference import RULES, codebook_8bit
from kq_conformance.reference_backend import ReferenceBackend

CORE = list(select(Profile.CORE))


def test_draws_have_their_distributions():
    draw = Draw(7)
    bell = draw.bell(100_000)
    # Standard errors: 1/sqrt(n) of the mean, below sqrt(2/n) of the variance; five of them.
    assert abs(bell.mean()) < 5 / np.sqrt(1e5)
    assert abs(bell.var() - 1) < 5 * np.sqrt(2e-5)
    uniform = draw.uniform(100_000)
    assert 0 <= uniform.min() < 1e-3
    assert 1 - 1e-3 < uniform.max() < 1
    magnitudes = draw.magnitudes(-3, 2, 1000)
    assert magnitudes.min() >= 2.0**-3
    assert magnitudes.max() < 4


@pytest.mark.parametrize("dtype", FORMATS)
class TestMatrices:
    def test_midpoints_hold_ties_and_their_neighbors(self, dtype):
        book = codebook_8bit(CODE_MAPS["even"]())
        x = values_of(midpoints(book)(Draw(0), dtype, 64))
        unit = x[0].reshape(-1, 64)  # the row of scale 1
        assert (np.abs(unit).max(axis=1) == 1).all()
        representable = [t for t in book.thresholds if FORMATS[dtype].round(t) == t]
        assert len(representable) > 60  # each type has a share of exact ties
        for tie in representable:
            up, down = (FORMATS[dtype].step(np.array([tie]), way)[0] for way in (1, -1))
            assert {tie, up, down} <= set(x[0])

    def test_nonfinite_values_stand_everywhere(self, dtype):
        x = values_of(MATRICES["nonfinite"](Draw(0), dtype, 64))
        for test in (np.isnan, np.isposinf, np.isneginf):
            columns = set(np.argwhere(test(x))[:, 1])
            assert {0, 32, 63, 129} <= columns

    def test_denormals_are_denormal(self, dtype):
        x = values_of(MATRICES["denormals"](Draw(0), dtype, 32))
        assert 0 < np.abs(x).max() < 2.0 ** FORMATS[dtype].emin

    def test_spikes_are_the_largest_number(self, dtype):
        x = values_of(MATRICES["spike"](Draw(0), dtype, 32))
        assert (np.abs(x.reshape(2, 3, 32)).max(axis=2) == FORMATS[dtype].largest).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sweeps_are_exhaustive(dtype):
    natural = natural_sweep(Draw(0), dtype, 64)
    assert np.array_equal(np.unique(natural.bits), np.arange(1 << 16))
    anchored = values_of(anchored_sweep(Draw(0), dtype, 64))
    everything = FORMATS[dtype].decode(np.arange(1 << 16, dtype=np.uint16))
    assert np.isin(everything[np.isfinite(everything)], anchored).all()


def problem(case_id: str) -> Any:
    return by_id(case_id).problem(0)


class TestLinear:
    prefix = "linear_4bit/nf4/b64/float16"

    def test_every_second_row_has_few_products(self):
        x = values_of(problem(f"{self.prefix}/m17-n40-k192").x)
        counts = np.count_nonzero(x, axis=1)
        assert (counts[::2] > 150).all()
        assert (counts[1::2] <= 6).all()
        assert (x[1::2, -1] != 0).all()

    def test_denormals_are_denormal(self):
        for dtype in ("float32", "float16"):
            x = values_of(problem(f"linear_4bit/fp4/b64/{dtype}/m5-n21-k900/denormal").x)
            assert 0 < np.abs(x).max() < 2.0 ** FORMATS[dtype].emin

    def test_some_results_overflow_and_some_do_not(self):
        asked = problem(f"{self.prefix}/m5-n21-k900/bias/overflow")
        product = asked.product(Strictness.EXACT)
        y = FORMATS["float16"].round(product.a @ product.forms[0].value + product.bias)
        assert {-np.inf, np.inf} < set(y.ravel())

    def test_picked_weights_are_all_of_them(self):
        whole = problem(f"{self.prefix}/picked-m3-n21-k67").whole
        x = values_of(whole.x)
        assert (np.count_nonzero(x, axis=0) == 1).all()
        assert (np.count_nonzero(x, axis=1) == 1).all()

    @pytest.mark.parametrize("op", ["linear_4bit", "linear_4bit_backward"])
    @pytest.mark.parametrize("dtype", FORMATS)
    @pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
    def test_near_ties_are_ties_but_for_their_last_product(self, op, dtype, quant_type):
        whole = problem(f"{op}/{quant_type}/b64/{dtype}/near-ties-m3").whole
        product = whole.product(Strictness.EXACT)
        sums = product.a @ product.forms[0].value
        assert np.array_equal(FLOAT32.round(sums), sums)
        if dtype != "float32":
            chosen = FORMATS[dtype]
            short = sums - np.copysign(2.0**-20, sums)  # one way or the other
            ties = np.minimum(*(np.abs(end - sums) for end in chosen.preimage(chosen.round(short))))
            share = np.mean(ties <= 2.0**-20)
            assert 0.4 < share < 0.6

    def test_every_width_is_every_width(self):
        several = problem("linear_4bit_backward/nf4/b64/float32/every-n-m5-k1-to-26")
        assert list(several.parts) == [f"k{K}" for K in range(1, 27)]
        asked = several.parts["k7"]
        backend = Adapter(ReferenceBackend())
        outputs = asked.call(backend)
        assert len(outputs) == 40
        judged = asked.judge(outputs, Strictness.EXACT)
        assert all(each.passed for each in judged)
        outputs["out of n17"].bits[4, 6] ^= 1 << 20
        failed = [
            each.quantity for each in asked.judge(outputs, Strictness.EXACT) if not each.passed
        ]
        assert failed == ["out of n17"]


class TestGrouped:
    prefix = "linear_4bit_grouped/nf4/b64/float32"

    def test_experts_without_rows_stand_everywhere(self):
        counts = COUNTS["zeros-between"]
        assert counts[0] == counts[-1] == 0
        inner = counts[1:-1]
        assert 0 in inner
        assert {len(COUNTS[name]) for name in ("one-expert", "many-experts")} == {1, 64}

    def test_sizes_go_beyond_16_bits(self):
        rows, features = (
            problem(f"{self.prefix}/large-{name}")
            for name in ("rows-n2-k33", "features-n21867-k7/nested")
        )
        assert len(rows.x.bits) > 1 << 16
        assert len(features.experts.weights.packed) > 1 << 16

    def test_nested_blocks_straddle_experts(self):
        experts = problem(f"{self.prefix}/uneven-n33-k257/bias/nested").experts
        scales = experts.weights.scales.absmax.bits
        assert experts.features * scales.shape[1] % 256
        assert scales.size > 256

    def test_damage_spoils_what_belongs_to_it_alone(self):
        asked = problem(f"{self.prefix}/damaged-n6-k130/bias/nonfinite")
        weights = asked.experts.weights
        damage = np.isnan(weights.absmax).any(axis=1) | np.isinf(weights.absmax).any(axis=1)
        of_expert = damage.reshape(len(asked.experts.counts), -1).any(axis=1)
        assert of_expert.tolist() == [False, True, True, False]
        rows = np.argwhere(~np.isfinite(values_of(asked.x)).all(axis=1)).ravel()
        assert rows.tolist() == [0, 1, 2]
        assert asked.experts.counts[0] > rows.max()
        assert asked.experts.counts[2] == 0

    def test_each_expert_is_judged_by_its_weight(self):
        asked = problem(f"{self.prefix}/uneven-n33-k257/bias/nested")
        outputs = asked.call(Adapter(ReferenceBackend()))
        (judged,) = asked.judge(outputs, Strictness.EXACT)
        assert judged.passed
        assert judged.elements == sum(asked.experts.counts) * 33
        outputs["out"].bits[[3, 24]] = outputs["out"].bits[[24, 3]]
        (judged,) = asked.judge(outputs, Strictness.EXACT)
        assert judged.violations > 33


class TestOptimizer:
    def test_core_asks_for_every_rule_type_and_rounding(self):
        asked = {
            (d.op, d.rule, d.dtype, d.rounding)
            for case in CORE
            if (d := case.demand).rule is not None
        }
        assert asked == {
            (f"optimizer_step_{bits}bit", name, dtype, rounding)
            for name, rule in RULES.items()
            for bits in (8, 32)
            for dtype in FORMATS
            for rounding in ("nearest", "stochastic", "corrected")
            if (rule.signed or bits == 32) and (rounding == "nearest" or dtype == "bfloat16")
        }

    @pytest.mark.parametrize("rule", list(RULES))
    def test_core_asks_every_rule_what_it_accepts(self, rule):
        """Each hyperparameter of a rule's own takes at least two values, and so do the others."""
        seen: dict[str, set[Any]] = {}
        for case in CORE:
            if case.demand.rule == rule and case.mode is Mode.VALUES and "public" not in case.id:
                hyper = case.problem(0).hyper
                for name, value in {**hyper.common, **hyper.own}.items():
                    seen.setdefault(name, set()).add(value)
        constant = {name for name, values in seen.items() if len(values) < 2}
        assert constant == (set() if RULES[rule].decouples else {"decoupled"})

    def test_norms_go_beyond_a_chunk_in_core(self):
        ids = {case.id for case in CORE}
        for name, rule in RULES.items():
            for op in ("optimizer_step_8bit", "optimizer_step_32bit"):
                assert (f"{op}/{name}/float32/large" in ids) == (rule.norm or name == "adam")

    def test_seeds_use_all_of_their_range(self):
        rounding = problem("optimizer_step_8bit/adam/bfloat16/stochastic/plain").rounding
        assert rounding.seeds[:3] == [0, -1, 2**63 - 1]
        assert len(set(rounding.seeds)) == 6

    def test_master_weights_use_their_corrections(self):
        asked = problem("optimizer_step_8bit/adam/bfloat16/corrected/plain")
        corrections = asked.rounding.corrections[4].bits.view(np.int8)
        assert corrections.min() < -120
        assert corrections.max() > 120

    def test_the_largest_numbers_step_beyond(self):
        asked = problem("optimizer_step_32bit/sgd/bfloat16/largest")
        p, g = (values_of(each[4]) for each in (asked.params, asked.grads))
        assert {*np.abs(p).tolist()} == {BFLOAT16.largest, BFLOAT16.step(BFLOAT16.largest, -1)[()]}
        over = np.isinf(BFLOAT16.round(p - g))
        assert over.any()
        assert not over.all()

    def test_denormal_moments_and_squares(self):
        asked = problem("optimizer_step_32bit/adam/float32/denormal")
        states = [values_of(each) for each in asked.states]
        assert all(0 < np.abs(each).max() < 2.0**-126 for each in states if each.size)
        g = np.abs(values_of(asked.grads[4]))
        assert (g[:256] < 2.0**-126).all()
        assert (g[256:512] ** 2 < 2.0**-126).all()
        assert (g[256:512] > 2.0**-126).all()

    def test_squares_that_overflow(self):
        g = values_of(problem("optimizer_step_8bit/adam/float32/huge-gradient").grads[4])
        huge = np.abs(g) > 2.0**64
        assert huge.any()
        # (1 − β₂) g² overflows with g², however the product is ordered.
        assert (1e-3 * g[huge] ** 2 > FLOAT32.largest).all()
