"""The JSON Schema of reports."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from kq_conformance.cli.app import app
from kq_conformance.cli.schema import schema as command
from kq_conformance.schema import report_schema, report_validator

GOLDEN = Path(__file__).parent / "golden"
PASSED = json.loads((GOLDEN / "report-passed.json").read_text(encoding="utf-8"))
FAILED = json.loads((GOLDEN / "report-failed.json").read_text(encoding="utf-8"))


def faults(document):
    """The places of all faults, by the schema as it is shipped and by our validator of it."""
    shipped, ours = (
        [(fault.json_path, fault.message) for fault in each.iter_errors(document)]
        for each in (Draft202012Validator(report_schema()), report_validator())
    )
    assert shipped == ours
    return ["/".join(map(str, fault.path)) for fault in report_validator().iter_errors(document)]


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(report_schema())


@pytest.mark.parametrize("document", [PASSED, FAILED], ids=["passed", "failed"])
def test_good_documents(document):
    assert faults(document) == []


def changed(document, path, value):
    """A copy with one value replaced, or added, or (None) removed."""
    copy = deepcopy(document)
    *way, last = path
    inner = copy
    for step in way:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copy


@pytest.mark.parametrize("figure", [2, 0.5, "inf", "-inf", "nan"])
def test_a_case_may_have_further_figures(figure):
    assert faults(changed(PASSED, ["cases", 0, "spread"], figure)) == []


@pytest.mark.parametrize("key", sorted(PASSED))
def test_every_key_of_the_document_is_required(key):
    assert faults(changed(PASSED, [key], None)) == [""]


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (["schema_version"], 2, "schema_version"),
        (["strictness"], "exact", ""),
        (["suite", "name"], "pytest", "suite/name"),
        (["backend", "description", "isa"], 2, "backend/description/isa"),
        (["environment", "user"], "me", "environment"),
        (["environment", "cores"], 0, "environment/cores"),
        (["run", "profile"], "huge", "run/profile"),
        (["run", "rules"], "lax", "run/rules"),
        (["run", "timeout"], 0, "run/timeout"),
        (["run", "date"], "22.11.2026", "run/date"),
        (["counts", "pass"], -1, "counts/pass"),
        (["counts", "skipped"], 1, "counts"),
        (["rules", "codes, exact", "exact"], "yes", "rules/codes, exact/exact"),
        (["coverage", 0, "counts"], {"pass": 0}, "coverage/0/counts/pass"),
        (["coverage", 0, "counts"], {"skip": 1}, "coverage/0/counts"),
        (["cases", 0, "id"], "quantize_4bit", "cases/0/id"),
        (["cases", 0, "verdict"], "skip", "cases/0/verdict"),
        (["cases", 0, "ms"], -1, "cases/0/ms"),
        (["cases", 0, "ms"], None, "cases/0"),
        (["cases", 0, "tightness"], -0.5, "cases/0/tightness"),
        (["cases", 0, "spread"], "large", "cases/0/spread"),
        (["cases", 0, "quantity"], None, "cases/0"),
        (["cases", 0, "waived"], "a case that passed", "cases/0"),
        (["cases", 0, "tightness"], 1.5, "cases/0/tightness"),
    ],
)
def test_a_document_with_one_fault(path, value, where):
    assert where in faults(changed(PASSED, path, value))


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (["waivers", 0, "link"], "ask me", "waivers/0/link"),
        (["waivers", 0, "expires"], "never", "waivers/0/expires"),
        (["waivers", 0, "state"], "ok", "waivers/0/state"),
        (["waivers", 0, "reason"], "", "waivers/0/reason"),
        (["cases", 0, "results"], [], "cases/0/results"),
        (["cases", 0, "results"], None, "cases/0"),  # a failure says what failed
        (["cases", 6, "message"], None, "cases/6"),  # a crash says what was raised
        (["cases", 0, "results", 1, "worst", "place"], [-1], "cases/0/results/1/worst/place/0"),
        (["cases", 0, "results", 1, "worst", "got"], None, "cases/0/results/1/worst"),
        (["certifies"], True, "passed"),
        (["waived"], True, "passed"),
    ],
)
def test_a_failed_document_with_one_fault(path, value, where):
    assert where in faults(changed(FAILED, path, value))


def test_only_a_complete_run_certifies():
    assert faults(changed(PASSED, ["run", "profile"], "full")) == []
    assert faults(changed(PASSED, ["run", "profile"], "quick")) == ["run/profile"]
    assert faults(changed(PASSED, ["run", "select"], "linear*")) == ["run/select"]


def test_the_command_prints_it():
    done = CliRunner().invoke(app, [command.__name__])
    assert done.exit_code == 0
    assert json.loads(done.output) == report_schema()
