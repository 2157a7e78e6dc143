"""Cases of calls that must be refused."""

import pytest

from kq_conformance.adapter import Adapter
from kq_conformance.cases import Mode, address
from kq_conformance.cases.refusals import refusal_cases
from kq_conformance.reference_backend import ReferenceBackend, backend
from kq_conformance.runner import Settings, Verdict, run_case

CASES = list(refusal_cases())


def case(case_id):
    return next(each for each in CASES if each.id == case_id)


def ask(subject_backend, each):
    return run_case(subject_backend, Adapter(subject_backend), each, Settings())


class Careless(ReferenceBackend):
    """Takes whatever is not 4 bits, as if it were."""

    def check_4bit(self, quant_type, blocksize):
        pass

    def codebook(self, _quant_type):
        return super().codebook("nf4")

    def optimizer_step_32bit(self, _rule, *lists, **options):
        super().optimizer_step_32bit("adam", *lists, **options)


class Late(ReferenceBackend):
    """Notices after the scales have been written."""

    def quantize_4bit(self, A, packed, absmax, *, quant_type, blocksize):
        absmax.zero_()
        super().quantize_4bit(A, packed, absmax, quant_type=quant_type, blocksize=blocksize)


class Crashing(ReferenceBackend):
    """Looks its tables up before it looks at its arguments."""

    def check_4bit(self, quant_type, _blocksize):
        if quant_type not in ("nf4", "fp4"):
            raise KeyError(quant_type)


def test_every_operation_and_what_it_takes_is_asked():
    asked = {(each.demand.op, address(each.id).name) for each in CASES}
    four_bit = {"refuse-quant-type", *(f"refuse-blocksize/{size}" for size in (48, 0, -64))}
    blockwise = {"refuse-blocksize/0", "refuse-blocksize/-64"}
    for op, names in {
        "quantize_4bit": four_bit,
        "dequantize_4bit": four_bit,
        "linear_4bit": four_bit,
        "linear_4bit_backward": four_bit,
        "linear_4bit_grouped": four_bit,
        "linear_4bit_grouped_backward": four_bit,
        "quantize_blockwise": blockwise,
        "dequantize_blockwise": blockwise,
        "optimizer_step_8bit": {"refuse-rule", "refuse-rounding"},
        "optimizer_step_32bit": {"refuse-rule", "refuse-rounding"},
    }.items():
        assert {name for each, name in asked if each == op} == names
    assert all(each.mode is Mode.REFUSAL for each in CASES)


def test_the_reference_refuses_everything():
    assert {ask(backend, each).verdict for each in CASES} == {Verdict.PASS}


@pytest.mark.parametrize(
    "case_id",
    [
        "quantize_4bit/nf4/b64/float32/refuse-quant-type",
        "quantize_4bit/nf4/b64/float32/refuse-blocksize/48",
        "linear_4bit/nf4/b64/bfloat16/refuse-quant-type",
        "optimizer_step_32bit/adam/float16/refuse-rule",
    ],
)
def test_what_accepts_fails(case_id):
    finding = ask(Careless(), case(case_id))
    assert finding.verdict is Verdict.FAIL
    assert finding.message == "the call was accepted, and must be refused"


def test_writing_before_refusing_fails():
    finding = ask(Late(), case("quantize_4bit/nf4/b64/float32/refuse-blocksize/0"))
    assert finding.verdict is Verdict.FAIL
    assert "absmax" in finding.message


def test_another_exception_is_a_crash():
    finding = ask(Crashing(), case("dequantize_4bit/nf4/b64/float32/refuse-quant-type"))
    assert finding.verdict is Verdict.CRASH


def test_what_is_not_declared_is_unsupported():
    silent = ReferenceBackend()
    silent.capabilities = ()
    assert {ask(silent, each).verdict for each in CASES[:8]} == {Verdict.UNSUPPORTED}
