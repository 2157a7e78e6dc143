"""The record of a run, its document, and a failure on one screen."""

import datetime
import json
import math
import os
import threading
from dataclasses import replace

import jsonschema
import pytest

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Profile, address, select
from kq_conformance.explain import explain, reproduction
from kq_conformance.files import try_target, write_text
from kq_conformance.pool import Description
from kq_conformance.reference_backend import ReferenceBackend
from kq_conformance.report import Report, load, to_json
from kq_conformance.runner import Settings, Verdict, run_case
from kq_conformance.schema import report_schema
from kq_conformance.waivers import Waiver

QUANTIZE = "quantize_4bit/nf4/b64/float32/random"
TODAY = datetime.date(2026, 11, 22)
WAIVER = Waiver("quantize_4bit/*", "known", "https://example.org/1", TODAY)
DESCRIBED = Description("it", "1.0", {"isa": "abacus"}, {"torch": "2.13.0", "accelerator": ""})


class Wrong(ReferenceBackend):
    def quantize_4bit(self, A, packed, absmax, **options):
        super().quantize_4bit(A, packed, absmax, **options)
        packed.fill_(0x77)


class Refusing(ReferenceBackend):
    capabilities = ()

    def quantize_4bit(self, *_args, **_options):
        raise NotImplementedError


def report_of(backend, pattern=QUANTIZE, waivers=(), **settings):
    chosen = Settings(**settings)
    findings = [
        run_case(backend, Adapter(backend), case, chosen) for case in select(pattern=pattern)
    ]
    return Report(
        "some.module:it", DESCRIBED, Profile.FULL, "*", chosen, 2, 60.0, findings, waivers, TODAY
    )


class TestExplaining:
    def test_a_failure_fits_on_a_screen(self):
        report = report_of(Wrong(), seed=5)
        text = explain(report.backend, report.findings[0], report.settings)
        lines = text.splitlines()
        assert len(lines) <= 12
        assert lines[0] == f"FAIL  {QUANTIZE}"
        assert lines[1].endswith(
            f"kq-conformance run --backend some.module:it --select '{QUANTIZE}' --seed 5"
        )
        for word in ("worst      codes[", "got        7", "expected", "allowed", "rule", "source"):
            assert word in text

    def test_bits_are_shown_where_numbers_are_equal(self):
        class OtherNan(ReferenceBackend):
            def quantize_4bit(self, A, packed, absmax, **options):
                super().quantize_4bit(A, packed, absmax, **options)
                absmax[absmax.isnan()] = -math.nan

        report = report_of(OtherNan(), "quantize_4bit/nf4/b64/float32/nonfinite")
        text = explain(report.backend, report.findings[0], report.settings)
        assert "note       got the bits 0xffc00000, expected 0x7fc00000" in text
        (entry,) = report.to_dict()["cases"]
        assert entry["results"][0]["worst"]["note"].endswith("expected 0x7fc00000")

    def test_a_waiver_shows(self):
        report = report_of(Wrong(), waivers=(WAIVER,))
        text = explain(report.backend, report.findings[0], report.settings, WAIVER)
        assert "waived     until 2026-11-22: known (https://example.org/1)" in text

    def test_reproduction_is_complete(self):
        line = reproduction("m:o", "a/b", Settings(1, Strictness.MARGIN, "cuda"))
        assert line == (
            "kq-conformance run --backend m:o --select 'a/b' --seed 1 --rules margin --device cuda"
        )


class TestOutcome:
    def test_only_whole_profiles_certify(self):
        report = report_of(ReferenceBackend())
        assert report.passed
        assert report.certifies
        assert not replace(report, pattern=QUANTIZE).certifies
        assert not replace(report, profile=Profile.QUICK).certifies

    def test_nothing_supported_is_no_pass(self):
        assert not report_of(Refusing()).passed

    def test_waived_failures_show_and_do_not_fail(self):
        # One case fails, and others pass.
        report = report_of(Wrong(), "*quantize_4bit/nf4/b64/float32/tail-c6?", waivers=(WAIVER,))
        assert report.counts["fail"] > 0
        assert report.passed
        assert report.waived
        assert report.certifies
        late = replace(report, date=TODAY + datetime.timedelta(days=1))
        assert not late.passed
        assert not late.waived


class TestDocument:
    def test_matches_its_schema(self):
        for report in (
            report_of(ReferenceBackend(), "*/float32/tail-c65"),
            report_of(Wrong(), waivers=(WAIVER, replace(WAIVER, select="nothing"))),
            report_of(Refusing()),
        ):
            document = json.loads(to_json(report.to_dict()))
            jsonschema.validate(
                document, report_schema(), cls=jsonschema.validators.Draft202012Validator
            )

    def test_of_a_failure(self, tmp_path):
        report = report_of(Wrong())
        path = tmp_path / "report.json"
        write_text(path, to_json(report.to_dict()))
        document = load(path)
        assert document["passed"] is document["certifies"] is False
        assert document["counts"]["fail"] == 1
        (entry,) = document["cases"]
        assert entry["id"] == QUANTIZE
        assert entry["tightness"] == "inf"
        absmax, codes = entry["results"]
        assert absmax["violations"] == 0
        assert codes["violations"] > 0
        assert codes["worst"]["got"] == 7
        assert document["coverage"] == [
            {
                "op": "quantize_4bit",
                "format": "nf4",
                "dtype": "float32",
                "counts": {"fail": 1},
                "waived": 0,
            }
        ]
        assert [each.name for each in tmp_path.iterdir()] == ["report.json"]

    def test_of_waivers(self):
        waivers = (
            WAIVER,
            replace(WAIVER, select="linear*"),
            replace(WAIVER, expires=datetime.date(2026, 1, 1)),
        )
        document = report_of(Wrong(), waivers=waivers).to_dict()
        assert [(each["state"], each["cases"]) for each in document["waivers"]] == [
            ("used", 1),
            ("unused", 0),
            ("expired", 0),
        ]
        assert document["cases"][0]["waived"] == "known"

    def test_has_one_case_a_line(self):
        text = to_json(report_of(ReferenceBackend(), "quantize_4bit/nf4/b64/float32/t*").to_dict())
        document = json.loads(text)
        lines = [line for line in text.splitlines() if '"id": ' in line]
        assert len(lines) == len(document["cases"]) > 3

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not JSON"),
            ("[]", "is not a report of kq-conformance"),
            ('{"suite": {"name": "other"}}', "is not a report of kq-conformance"),
            ('{"suite": {"name": "kq-conformance"}}', "has the schema version None"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path, text, message):
        path = tmp_path / "report.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load(path)

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"cases": [1]}, r"\$\.cases\[0\]: 1 is not of type 'object'"),
            ({"run": {}}, r"\$\.run: '\w+' is a required property"),
            ({"passed": "yes" * 999}, r"\$\.passed: .{,60} … .* is not of type 'boolean'"),
            ({"rules": {"a\nb": 1}}, r"\$\.rules\['a b'\]: 1 is not of type 'object'"),
        ],
    )
    def test_reports_of_another_layout_are_refused(self, tmp_path, change, complaint):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(report_of(ReferenceBackend()).to_dict() | change))
        with pytest.raises(ValueError, match=f"is not a valid report: {complaint}$") as caught:
            load(path)
        assert len(str(caught.value)) < len(str(path)) + 200
        assert "\n" not in str(caught.value)

    def test_incomplete_reports_are_refused(self, tmp_path):
        document = report_of(ReferenceBackend()).to_dict()
        del document["coverage"]
        path = tmp_path / "report.json"
        path.write_text(json.dumps(document))
        with pytest.raises(ValueError, match="'coverage' is a required property"):
            load(path)

    def test_missing_files_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="No such file"):
            load(tmp_path / "none.json")


def test_failed_writes_leave_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


class TestSpecialTargets:
    def test_pipes_are_written_to(self, tmp_path):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        read = []
        reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
        reader.start()
        try_target(path)
        write_text(path, "text")
        reader.join(10)
        assert read == ["text"]
        assert path.is_fifo()

    def test_links_stay(self, tmp_path):
        path, target = tmp_path / "link", tmp_path / "target"
        path.symlink_to(target)
        try_target(path)
        write_text(path, "text")
        assert path.is_symlink()
        assert target.read_text() == "text"

    def test_trying_changes_nothing(self, tmp_path):
        path = tmp_path / "report.json"
        try_target(path)
        assert list(tmp_path.iterdir()) == []
        path.write_text("old")
        try_target(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class TestAddress:
    def test_with_and_without_block_size(self):
        assert address("linear_4bit/nf4/b64/float32/m1/bias") == (
            "linear_4bit",
            "nf4",
            64,
            "float32",
            "m1/bias",
        )
        assert address("optimizer_step_8bit/adam/float16/plain")[2:] == (None, "float16", "plain")

    def test_of_every_case(self):
        for case in select():
            parts = address(case.id)
            assert (parts.op, parts.dtype) == (case.demand.op, case.demand.dtype)

    def test_anything_else_is_refused(self):
        with pytest.raises(ValueError, match="case id must be"):
            address("linear_4bit/nf4/b64")


def test_verdicts_say_which_are_acceptable():
    acceptable = {each for each in Verdict if each.acceptable}
    assert acceptable == {Verdict.PASS, Verdict.UNSUPPORTED, Verdict.UNDER_CLAIM}
