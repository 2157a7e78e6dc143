"""Verdicts, the guarded memory, discovery and the report."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Demand, Profile, select
from kq_conformance.discovery import BackendError, declares, find_backend
from kq_conformance.floats import store
from kq_conformance.numpy_backend import Capability, NumpyBackend, backend
from kq_conformance.report import Report, write_json
from kq_conformance.runner import Settings, Verdict, run_case, run_cases
from kq_conformance.subject import ContractBreachError

QUANTIZE = "quantize_4bit/nf4/b64/float32/random"


def case(pattern: str):
    return next(select(pattern=pattern))


def verdict_of(subject_backend, pattern=QUANTIZE, **settings):
    cases = [case(pattern)]
    found = list(run_cases(subject_backend, Adapter(subject_backend), cases, Settings(**settings)))
    return found[0]


class Undeclared(NumpyBackend):
    capabilities = ()


class Refusing(Undeclared):
    def quantize_4bit(self, *_args, **_options):
        raise NotImplementedError("not here")


class Broken(NumpyBackend):
    def quantize_4bit(self, *_args, **_options):
        raise RuntimeError("cudaErrorIllegalAddress")


class WrongUndeclared(Undeclared):
    def quantize_4bit(self, _A, packed, absmax, **_options):
        packed.zero_()
        absmax.zero_()


class TestVerdicts:
    @pytest.mark.parametrize(
        ("made", "verdict"),
        [
            (NumpyBackend, Verdict.PASS),
            (Undeclared, Verdict.UNDER_CLAIM),
            (Refusing, Verdict.UNSUPPORTED),
            (WrongUndeclared, Verdict.UNSUPPORTED),
            (Broken, Verdict.CRASH),
        ],
    )
    def test_of_a_backend(self, made, verdict):
        assert verdict_of(made()).verdict is verdict

    def test_refusing_what_was_declared_is_an_over_claim(self):
        refusing = Refusing()
        refusing.capabilities = NumpyBackend.capabilities
        finding = verdict_of(refusing)
        assert finding.verdict is Verdict.OVER_CLAIM
        assert finding.message == "NotImplementedError: not here"

    def test_without_probing_nothing_undeclared_is_called(self):
        broken = Broken()
        broken.capabilities = ()
        assert verdict_of(broken, probe=False).verdict is Verdict.UNSUPPORTED

    def test_results_that_depend_on_threads_fail(self):
        class Depends(NumpyBackend):
            def product(self, a, b):
                half = a.shape[1] // torch.get_num_threads()
                return NumpyBackend.product(a[:, :half], b[:half]) + NumpyBackend.product(
                    a[:, half:], b[half:]
                )

        finding = verdict_of(Depends(), "linear_4bit/nf4/b64/float32/m17-*/bias/nested/threads")
        assert finding.verdict is Verdict.FAIL
        assert finding.message.startswith("2 threads differ from 1: out[")

    def test_number_of_threads_is_restored(self):
        before = torch.get_num_threads()
        with Adapter(backend).threads(before + 1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before


class TestGuardedMemory:
    x = store(np.ones((2, 3)), "float32")

    def call(self, body):
        class Probe(NumpyBackend):
            def quantize_4bit(self, A, packed, absmax, **_options):
                body(A, packed, absmax)

        return Adapter(Probe()).quantize_4bit(self.x, quant_type="nf4", blocksize=64)

    def test_outputs_are_poisoned(self):
        outputs = self.call(lambda *_: None)
        assert (outputs["packed"].bits == 0xFF).all()
        assert (outputs["absmax"].bits == 0xFFFFFFFF).all()

    def test_inputs_arrive_and_are_not_aligned(self):
        def body(A, packed, absmax):
            assert A.tolist() == [[1.0] * 3] * 2
            assert A.data_ptr() % 64 == 4
            assert absmax.data_ptr() % 64 == 4
            assert packed.is_contiguous()

        self.call(body)

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            (-1, r"memory outside of packed \(4 bytes\) was written, first at byte 1 before its"),
            (4, r"memory outside of packed \(4 bytes\) was written, first at byte 1 past its end"),
        ],
    )
    def test_writes_outside_are_breaches(self, index, message):
        def body(_A, packed, _absmax):
            offset = packed.storage_offset() + index
            packed.as_strided((1,), (1,), offset)[0] = 1

        with pytest.raises(ContractBreachError, match=message):
            self.call(body)

    def test_changed_inputs_are_breaches(self):
        with pytest.raises(ContractBreachError, match="the input A was changed at byte 6"):
            self.call(lambda A, *_outputs: A.view(-1)[1:2].zero_())


class TestDiscovery:
    def test_by_object(self):
        assert find_backend("kq_conformance.numpy_backend:backend") is backend

    def test_by_loader(self):
        assert find_backend("kq_conformance.numpy_backend:NumpyBackend").name == "numpy"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nowhere", "is not registered in the entry-point group 'kq.backends'"),
            ("no.such:thing", "No module named 'no'"),
            ("kq_conformance.numpy_backend:nothing", "has no attribute 'nothing'"),
            ("kq_conformance.floats:FORMATS", "is a dict without name, version, capabilities"),
        ],
    )
    def test_what_cannot_be_found(self, name, message):
        with pytest.raises(BackendError, match=message):
            find_backend(name)

    def test_declarations(self):
        demand = Demand("linear_4bit", "bfloat16", "nf4", 64)
        declared = Capability(
            "linear_4bit", frozenset({"bfloat16"}), None, frozenset({"nf4"}), frozenset({64})
        )
        assert declares([declared], demand, "cpu")
        for change in (
            {"op": "quantize_4bit"},
            {"dtype": "float16"},
            {"quant_type": "fp4"},
            {"blocksize": 128},
            {"rule": "lion"},
        ):
            assert not declares([declared], replace(demand, **change), "cpu")
        assert not declares([replace(declared, devices=frozenset({"cuda"}))], demand, "cpu")


class TestReport:
    def report(self, made, pattern=QUANTIZE, **settings):
        chosen = Settings(**settings)
        cases = list(select(pattern=pattern))
        findings = list(run_cases(made, Adapter(made), cases, chosen))
        return Report("some.module:it", {"name": "it"}, {}, Profile.FULL, "*", chosen, findings)

    def failing(self, **settings):
        class Wrong(NumpyBackend):
            def quantize_4bit(self, A, packed, absmax, **options):
                super().quantize_4bit(A, packed, absmax, **options)
                packed.fill_(0x77)

        return self.report(Wrong(), **settings)

    def test_a_failure_fits_on_a_screen(self):
        report = self.failing(seed=5)
        text = report.explain(report.findings[0])
        lines = text.splitlines()
        assert len(lines) <= 12
        assert lines[0] == f"FAIL  {QUANTIZE}"
        assert lines[1].endswith(
            f"kq-conformance run --backend some.module:it --select '{QUANTIZE}' --seed 5"
        )
        for word in ("worst      codes[", "got        7", "expected", "allowed", "rule", "source"):
            assert word in text

    def test_reproduction_is_complete(self):
        report = self.failing(seed=1, strictness=Strictness.MARGIN)
        line = report.reproduction(report.findings[0])
        assert line.endswith("--seed 1 --rules margin")

    def test_document(self, tmp_path):
        report = self.failing()
        path = tmp_path / "report.json"
        write_json(report.to_dict(), path)
        document = json.loads(path.read_text())
        assert document["schema_version"] == 1
        assert document["passed"] is document["certifies"] is False
        assert document["counts"]["fail"] == 1
        entry = document["cases"][0]
        assert entry["id"] == QUANTIZE
        assert entry["tightness"] == "inf"
        assert entry["results"][1]["violations"] > 0
        assert entry["results"][1]["worst"]["got"] == 7
        assert [each.name for each in tmp_path.iterdir()] == ["report.json"]

    def test_failed_writes_leave_nothing(self, tmp_path):
        path = tmp_path / "report.json"
        path.write_text("old")
        with pytest.raises(ValueError, match="JSON"):
            write_json({"tightness": float("nan")}, path)
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 1

    def test_only_whole_profiles_certify(self):
        report = self.report(NumpyBackend())
        assert report.passed
        assert report.certifies
        assert not replace(report, pattern=QUANTIZE).certifies
        assert not replace(report, profile=Profile.QUICK).certifies

    def test_nothing_supported_is_no_pass(self):
        refusing = Refusing()
        assert not self.report(refusing).passed


def test_quick_passes_on_the_numpy_backend():
    subject = Adapter(backend)
    bad = [
        finding.case.id
        for finding in (run_case(subject, each, Settings()) for each in select(Profile.QUICK))
        if finding.verdict is not Verdict.PASS
    ]
    assert bad == []
