"""Verdicts."""

from dataclasses import replace

import pytest
import torch

from kq_conformance.adapter import Adapter
from kq_conformance.cases import Profile, select
from kq_conformance.reference_backend import ReferenceBackend, backend
from kq_conformance.runner import Settings, Verdict, run_case

QUANTIZE = "quantize_4bit/nf4/b64/float32/random"


def find(asked, pattern=QUANTIZE, **settings):
    case = next(select(pattern=pattern))
    return run_case(asked, Adapter(asked), case, Settings(**settings))


class Undeclared(ReferenceBackend):
    capabilities = ()


class Refusing(Undeclared):
    def quantize_4bit(self, *_args, **_options):
        raise NotImplementedError("not here")


class Broken(ReferenceBackend):
    def quantize_4bit(self, *_args, **_options):
        raise RuntimeError("cudaErrorIllegalAddress")


class WrongUndeclared(Undeclared):
    def quantize_4bit(self, _A, packed, absmax, **_options):
        packed.zero_()
        absmax.zero_()


class TooLate(Undeclared):
    def quantize_4bit(self, _A, packed, _absmax, **_options):
        packed.zero_()
        raise NotImplementedError


class BrokenUndeclared(Broken):
    capabilities = ()


class Without:
    name, version, capabilities = "without", "1", ()


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (ReferenceBackend, Verdict.PASS),
        (Undeclared, Verdict.UNDER_CLAIM),
        (Refusing, Verdict.UNSUPPORTED),
        (Without, Verdict.UNSUPPORTED),
        (WrongUndeclared, Verdict.FAIL),
        (TooLate, Verdict.FAIL),
        (BrokenUndeclared, Verdict.CRASH),
        (Broken, Verdict.CRASH),
    ],
)
def test_of_a_backend(made, verdict):
    assert find(made()).verdict is verdict


def test_refusing_what_was_declared_is_an_over_claim():
    refusing = Refusing()
    refusing.capabilities = ReferenceBackend.capabilities
    finding = find(refusing)
    assert finding.verdict is Verdict.OVER_CLAIM
    assert finding.message == "NotImplementedError: not here"


def test_what_is_not_declared_must_be_refused_or_right():
    finding = find(WrongUndeclared())
    assert finding.message == "this is not declared, and was neither refused nor done right"
    assert finding.failed is not None


def test_a_message_that_cannot_be_read_is_no_obstacle():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    class Raising(ReferenceBackend):
        def quantize_4bit(self, *_args, **_options):
            raise Mute

    finding = find(Raising())
    assert finding.verdict is Verdict.CRASH
    assert finding.message == "Mute: (its message cannot be read)"


def test_without_probing_nothing_undeclared_is_called():
    broken = Broken()
    broken.capabilities = ()
    assert find(broken, probe=False).verdict is Verdict.UNSUPPORTED


def test_results_that_depend_on_threads_fail():
    class Depends(ReferenceBackend):
        def scales(self, scales):
            return super().scales(scales) * torch.get_num_threads()

    finding = find(Depends(), "linear_4bit/nf4/b64/float32/m17-*/bias/nested/threads")
    assert finding.verdict is Verdict.FAIL
    assert finding.message.startswith("2 threads differ from 1: out[")


def test_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with Adapter(backend).threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_what_must_be_refused_may_not_be_accepted():
    class Lax(ReferenceBackend):
        def check_4bit(self, quant_type, blocksize):
            pass

        def quantize_4bit(self, A, packed, absmax, *, quant_type, blocksize):
            del quant_type
            super().quantize_4bit(A, packed, absmax, quant_type="nf4", blocksize=blocksize)

    pattern = "quantize_4bit/nf4/b64/float32/refuse-quant-type"
    assert find(ReferenceBackend(), pattern).verdict is Verdict.PASS
    finding = find(Lax(), pattern)
    assert finding.verdict is Verdict.FAIL
    assert "must be refused" in finding.message


def test_what_cannot_be_reached_is_unsupported():
    # An object has no name by which kq-functional could pin it.
    finding = find(backend, "quantize_4bit/nf4/b64/float32/public/plain/random")
    assert finding.verdict is Verdict.UNSUPPORTED
    assert "no name" in finding.message


def test_quick_passes_on_the_reference():
    findings = [
        run_case(backend, Adapter(backend), case, Settings()) for case in select(Profile.QUICK)
    ]
    assert [each.case_id for each in findings if each.verdict is not Verdict.PASS] == []


class WrongInOneByte(ReferenceBackend):
    def quantize_4bit(self, A, packed, absmax, **options):
        super().quantize_4bit(A, packed, absmax, **options)
        packed.view(torch.uint8)[0, 0] ^= 0xFF


def test_an_answer_is_not_taken_for_another_of_the_same_case():
    made = [ReferenceBackend, WrongInOneByte, ReferenceBackend, WrongInOneByte]
    verdicts = [find(each()).verdict for each in made]
    assert verdicts == [Verdict.PASS, Verdict.FAIL] * 2


@pytest.mark.parametrize(("memory", "times"), [(0, 1), (1 << 30, 2)])
def test_inputs_are_kept_for_the_next_backend_unless_they_are_large(memory, times):
    case, made = next(select(pattern=QUANTIZE)), []

    def make(draw):
        made.append(case.make(draw))
        return made[-1]

    asked = ReferenceBackend()
    counted = replace(case, make=make, memory=memory)
    for _ in range(2):
        assert run_case(asked, Adapter(asked), counted, Settings()).verdict is Verdict.PASS
    assert len(made) == times
