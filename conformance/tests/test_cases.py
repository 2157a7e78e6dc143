"""Ids, inputs and coverage of the cases."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from kq_conformance.adapter import Adapter
from kq_conformance.cases import Case, Mode, Profile, address, by_id, select
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.floats import FORMATS
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, RULES
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


def test_nothing_here_imports_torch_or_a_backend():
    # One module knows torch; the reference and the cases must not depend on what they judge.
    modules = ("cases", "bounds", "cli", "mutants", "discovery", "reference", "report", "runner")
    foreign = ("torch", "kq_functional", "kq_kernels", "triton", "scipy", "transformers")
    code = "import sys\n" + "".join(f"import kq_conformance.{each}\n" for each in modules)
    code += "print(*{each.partition('.')[0] for each in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(foreign) & set(done.stdout.split())
