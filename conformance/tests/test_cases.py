"""Ids, inputs and coverage of the cases."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Case, Mode, Profile, address, by_id, select
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.grouped import COUNTS
from kq_conformance.cases.matrices import MATRICES, anchored_sweep, midpoints, natural_sweep
from kq_conformance.floats import BFLOAT16, FLOAT32, FORMATS, values_of
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, RULES, codebook_8bit
from kq_conformance.reference_backend import ReferenceBackend
from kq_conformance.runner import Settings, run_case

CORE = list(select(Profile.CORE))
USUAL_MAP = "dynamic-signed"
PRODUCTS = (
    *("linear_4bit", "linear_4bit_backward"),
    *("linear_4bit_grouped", "linear_4bit_grouped_backward"),
)
INT8_OF_FLOATS = (
    *("int8_vectorwise_quant", "int8_vectorwise_dequant", "int8_mm_dequant"),
    *("int8_linear", "int8_linear_backward"),
)


def test_ids_are_unique():
    counted = Counter(case.id for case in select(Profile.FULL))
    assert max(counted.values()) == 1


def test_profiles_are_nested():
    quick, core, full = ({case.id for case in select(each)} for each in Profile)
    assert quick < core < full


def test_core_covers_every_operation_type_and_block_size():
    demands = {case.demand for case in CORE}
    for op in ("quantize_4bit", "dequantize_4bit", *PRODUCTS):
        covered = {(d.dtype, d.quant_type, d.blocksize) for d in demands if d.op == op}
        assert covered == {
            (dtype, quant_type, blocksize)
            for dtype in FORMATS
            for quant_type in ("nf4", "fp4")
            for blocksize in FOUR_BIT_BLOCKSIZES
        }
    for op in (
        "quantize_blockwise",
        "dequantize_blockwise",
        "optimizer_step_8bit",
        "optimizer_step_32bit",
        *INT8_OF_FLOATS,
    ):
        assert {d.dtype for d in demands if d.op == op} == set(FORMATS)
    assert {d.dtype for d in demands if d.op == "int8_linear_matmul"} == {"int8"}


@pytest.mark.parametrize("mode", [Mode.REPEAT, Mode.THREADS, Mode.BEFORE, Mode.OFFSET])
def test_core_asks_for_each_mode_of_every_operation_type_and_format(mode):
    def asked(cases: Iterable[Case]) -> set[tuple[str, str, str]]:
        return {(case.demand.op, case.demand.dtype, address(case.id).format) for case in cases}

    formats = ("nf4", "fp4", "int8", *RULES, USUAL_MAP)
    usual = (case for case in CORE if address(case.id).format in formats)
    assert asked(case for case in CORE if case.mode is mode) == asked(usual)


def test_core_lets_rows_lie_apart_where_the_contract_does():
    strided = [case for case in CORE if case.mode is Mode.STRIDED]
    ops = ("quantize_4bit", "quantize_blockwise", *PRODUCTS)
    ops += tuple(op for op in INT8_OF_FLOATS if op != "int8_vectorwise_dequant")
    asked = {(case.demand.op, case.demand.dtype) for case in strided}
    of_codes = {("int8_linear_matmul", "int8")}
    assert asked == {(op, dtype) for op in ops for dtype in FORMATS} | of_codes
    few, many = (
        {case.demand.op for case in strided if name in case.id} for name in ("/m3-", "/m37-")
    )
    int8 = {"int8_linear", "int8_linear_backward", "int8_linear_matmul"}
    assert few == many - {"int8_mm_dequant"} == {"linear_4bit", "linear_4bit_backward"} | int8


def test_core_goes_beyond_16_bits_in_each_size():
    ids = {case.id for case in CORE}
    for dtype in ("float32", "bfloat16"):
        for name in ("long-row", "many-rows"):
            for op in ("quantize_4bit/nf4/b64", "dequantize_4bit/fp4/b64"):
                assert f"{op}/{dtype}/{name}" in ids
            for op in ("quantize_blockwise", "dequantize_blockwise"):
                assert f"{op}/{USUAL_MAP}/b256/{dtype}/{name}" in ids
            assert f"dequantize_4bit/nf4/b64/{dtype}/{name}/nested" in ids
        for op in ("linear_4bit", "linear_4bit_backward"):
            assert f"{op}/nf4/b64/{dtype}/m2-n3-k65601" in ids
            assert f"{op}/nf4/b64/{dtype}/m2-n65601-k7/nested" in ids
        for op, name in (
            ("linear_4bit_grouped", "large-rows-n2-k33"),
            ("linear_4bit_grouped_backward", "large-rows-n33-k2"),
        ):
            assert f"{op}/nf4/b64/{dtype}/{name}" in ids
            assert f"{op}/nf4/b64/{dtype}/large-features-n21867-k7/nested" in ids
        for op in ("optimizer_step_8bit", "optimizer_step_32bit"):
            assert f"{op}/adam/{dtype}/large" in ids
        for op in ("int8_vectorwise_quant", "int8_vectorwise_dequant"):
            assert {f"{op}/int8/{dtype}/{name}" for name in ("long-row", "many-rows")} <= ids
        for op, name in (
            ("int8_linear", "m65541-n2-k33/outliers"),
            ("int8_linear_backward", "m65541-n33-k2"),
            ("int8_mm_dequant", "m65541-n3/bias"),
        ):
            assert f"{op}/int8/{dtype}/{name}" in ids
        for op in ("int8_linear", "int8_linear_backward"):
            for name in ("m2-n3-k65601", "m2-n65601-k7"):
                assert f"{op}/int8/{dtype}/{name}" in ids
    for name in ("m2-n3-k65601", "m2-n65601-k7", "m65541-n2-k33", "m3-n5-k131072"):
        assert f"int8_linear_matmul/int8/int8/{name}" in ids


def test_core_sweeps_every_codebook():
    books = [("quantize_4bit", name, 64) for name in ("nf4", "fp4")]
    books += [("quantize_blockwise", name, 256) for name in CODE_MAPS]
    ids = {case.id for case in CORE}
    for op, book, blocksize in books:
        for dtype in FORMATS:
            names = (
                ["midpoints"] if dtype == "float32" else ["midpoints", "sweep", "sweep-anchored"]
            )
            assert {f"{op}/{book}/b{blocksize}/{dtype}/{name}" for name in names} <= ids
            assert f"de{op}/{book}/b{blocksize}/{dtype}/all-codes" in ids


@pytest.mark.parametrize("blocksize", [32, 64])
@pytest.mark.parametrize(
    ("address", "suffix"),
    [
        ("quantize_4bit/nf4", ""),
        ("dequantize_4bit/fp4", " nested"),
        (f"quantize_blockwise/{USUAL_MAP}", ""),
        (f"dequantize_blockwise/{USUAL_MAP}", ""),
    ],
)
def test_full_asks_for_tails_of_every_length(address, suffix, blocksize):
    case = by_id(f"{address}/b{blocksize}/bfloat16/every-tail")
    assert case.profile is Profile.FULL
    parts = case.problem(0).parts
    assert {f"c{cols}{suffix}" for cols in range(1, 2 * blocksize + 2)} <= set(parts)


class TestSeveral:
    def asked(self, backend):
        case = by_id("quantize_4bit/nf4/b32/float32/every-tail")
        return run_case(backend, Adapter(backend), case, Settings())

    def test_each_part_is_judged(self):
        finding = self.asked(ReferenceBackend())
        assert finding.verdict == "pass"
        assert {each.quantity for each in finding.judgements} == {
            f"c{cols} {name}" for cols in range(1, 66) for name in ("absmax", "codes")
        }

    def test_a_wrong_part_is_named(self):
        class Wrong(ReferenceBackend):
            def quantize_4bit(self, A, packed, absmax, **options):
                super().quantize_4bit(A, packed, absmax, **options)
                if A.shape[1] == 40:
                    absmax.zero_()

        finding = self.asked(Wrong())
        assert finding.verdict == "fail"
        assert finding.failed.quantity == "c40 absmax"

    def test_a_breach_is_named(self):
        class Wrong(ReferenceBackend):
            def quantize_4bit(self, A, packed, absmax, **options):
                super().quantize_4bit(A, packed, absmax, **options)
                if A.shape[1] == 40:
                    A.zero_()

        assert self.asked(Wrong()).message.startswith("c40: the input A was written")


def test_selection_is_a_glob_over_ids():
    ids = [case.id for case in select(pattern="linear_4bit/nf4/b64/float32/m1-*/bias")]
    assert "linear_4bit/nf4/b64/float32/m1-n48-k130/bias" in ids
    assert all(each.startswith("linear_4bit/nf4/b64/float32/m1-") for each in ids)


def test_inputs_follow_from_id_and_seed_alone():
    case = next(select(pattern="quantize_4bit/nf4/b64/float32/random"))
    first, again, other = (case.problem(seed).x.bits for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # A value written down once: the stream is the same on every machine and in every version.
    assert [f"{word:08x}" for word in first[0, :3]] == ["bd00b1e2", "ba3c762c", "3e2b8252"]


def test_a_run_neither_reads_nor_moves_the_generator_of_torch():
    backend = ReferenceBackend()
    subject = Adapter(backend)
    cases = [
        by_id("quantize_4bit/nf4/b64/float32/random"),
        by_id("linear_4bit/fp4/b64/bfloat16/m16-n48-k64/bias/nested"),
    ]
    inputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        for case in cases:
            inputs.append(case.problem(0).x.bits.tobytes())
            assert run_case(backend, subject, case, Settings()).verdict == "pass"
        assert torch.equal(torch.get_rng_state(), before)
    assert inputs[: len(cases)] == inputs[len(cases) :]


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


def test_nothing_here_imports_torch_or_a_backend():
    # One module knows torch; the reference and the cases must not depend on what they judge.
    modules = ("cases", "bounds", "cli", "mutants", "discovery", "reference", "report", "runner")
    foreign = ("torch", "kq_functional", "kq_kernels", "triton", "scipy", "transformers")
    code = "import sys\n" + "".join(f"import kq_conformance.{each}\n" for each in modules)
    code += "print(*{each.partition('.')[0] for each in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(foreign) & set(done.stdout.split())
