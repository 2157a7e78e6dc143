"""What changed from one report to another."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kq_conformance.cli.app import app
from kq_conformance.cli.diff import diff as command
from kq_conformance.diff import Change, compare
from kq_conformance.report import to_json

GOLDEN = Path(__file__).parent / "golden"
PASSED_FILE, FAILED_FILE = GOLDEN / "report-passed.json", GOLDEN / "report-failed.json"
PASSED = json.loads(PASSED_FILE.read_text(encoding="utf-8"))
FAILED = json.loads(FAILED_FILE.read_text(encoding="utf-8"))
NEAR = "linear_4bit/nf4/b64/float32/m1-n48-k130"  # tightness 0.25 in PASSED


def changed(case=None, **details):
    """A copy of PASSED with another entry for one case."""
    copy = deepcopy(PASSED)
    for entry in copy["cases"]:
        if entry["id"] == case:
            entry |= details
    return copy


def without(case):
    return deepcopy(PASSED) | {"cases": [c for c in PASSED["cases"] if c["id"] != case]}


def invoke(*arguments):
    return CliRunner().invoke(app, [command.__name__, *map(str, arguments)])


def test_nothing_changed():
    found = compare(PASSED, deepcopy(PASSED))
    assert not any((found.conditions, found.outcome, found.verdicts, found.waivers))
    assert not any((found.gone, found.added, found.growths))
    assert not found.worse


@pytest.mark.parametrize(
    ("old", "new", "worse"),
    [
        ("pass", "fail", True),
        ("pass", "timeout", True),
        ("pass", "unsupported", True),  # a declaration withdrawn
        ("pass", "under-claim", True),
        ("pass", "", True),
        ("unsupported", "over-claim", True),
        ("under-claim", "unsupported", False),
        ("unsupported", "under-claim", False),
        ("unsupported", "", False),
        ("fail", "crash", False),
        ("fail", "pass", False),
        ("fail", "", False),
        ("", "fail", False),
        ("", "pass", False),
    ],
)
def test_what_is_worse(old, new, worse):
    assert Change("x", old, new).worse is worse


def test_regressions_come_first():
    found = compare(PASSED, FAILED)
    assert [each.worse for each in found.verdicts] == [True] * 7 + [False]
    assert found.verdicts[-1] == Change(
        "linear_4bit/nf4/b128/float32/m1-n48-k130", "unsupported", "under-claim"
    )
    assert not compare(FAILED, PASSED).worse


def expired_and_valid():
    """Two reports with the same failure, of which the second waives it."""
    expired = changed(NEAR, verdict="fail", message="known") | {"passed": False, "certifies": False}
    valid = changed(NEAR, verdict="fail", message="known", waived="known") | {"waived": True}
    waiver = FAILED["waivers"][0] | {"select": NEAR}
    return (
        expired | {"waivers": [waiver | {"state": "expired", "cases": 0}]},
        valid | {"waivers": [waiver]},
    )


def test_waivers_and_the_outcome_are_compared():
    expired, valid = expired_and_valid()
    found = compare(expired, valid)
    assert found.outcome == dict.fromkeys(("passed", "certifies", "waived"), (False, True))
    assert found.waivers == [Change(NEAR, "fail", "fail", (False, True))]
    assert not found.verdicts
    assert not found.worse
    assert compare(valid, expired).waivers == [Change(NEAR, "fail", "fail", (True, False))]


def test_a_waived_failure_is_told_once():
    _, valid = expired_and_valid()
    found = compare(PASSED, valid)
    assert found.verdicts == [Change(NEAR, "pass", "fail", (False, True))]
    assert not found.waivers
    assert found.outcome == {"waived": (False, True)}


def test_cases_come_and_go():
    less = without(NEAR)
    assert compare(PASSED, less).gone == [Change(NEAR, "pass", "")]
    assert compare(PASSED, less).worse
    assert compare(less, PASSED).added == [Change(NEAR, "", "pass")]
    assert not compare(less, PASSED).worse


def test_tightness_that_grew():
    assert not compare(PASSED, changed(NEAR, tightness=0.5)).growths  # not more than the factor
    (growth,) = compare(PASSED, changed(NEAR, tightness=0.51)).growths
    assert (growth.case, growth.old, growth.new) == (NEAR, 0.25, 0.51)
    assert not compare(PASSED, changed(NEAR, tightness=0.51), factor=3).growths
    assert not compare(changed(NEAR, tightness=0), PASSED).growths


def test_largest_growth_comes_first():
    old = changed(NEAR, tightness=0.001)
    new = changed("optimizer_step_8bit/adam/float32/plain", tightness=1.0)
    old["cases"][9]["tightness"] = 0.25
    factors = [growth.new / growth.old for growth in compare(old, new).growths]
    assert factors == sorted(factors, reverse=True)
    assert len(factors) == 2


def test_failures_have_no_tightness_to_compare():
    assert not compare(PASSED, changed(NEAR, verdict="fail", tightness="inf")).growths


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("rules", "margin")])
def test_other_questions_cannot_be_compared_in_tightness(name, value):
    other = changed(NEAR, tightness=1.0)
    other["run"][name] = value
    found = compare(PASSED, other)
    assert not found.growths
    assert found.incomparable == f"the runs have other {name}"


def test_conditions():
    other = deepcopy(PASSED)
    other["format_version"] = 2
    other["suite"]["version"] = "0.2.0"
    other["backend"]["description"] = {"isa": "avx2", "openmp": "5.0"}
    other["run"] |= {"date": "2027-01-01", "workers": 8}
    assert compare(PASSED, other).conditions == {
        "suite version": ("0.1.0", "0.2.0"),
        "format version": ("1", "2"),
        "backend flags": ("-O3 -mavx2", ""),
        "backend openmp": ("", "5.0"),
    }


def test_command_without_differences():
    done = invoke(PASSED_FILE, PASSED_FILE)
    assert (done.exit_code, done.output) == (0, "no difference in results\n")


def test_command_tells_what_got_worse():
    done = invoke(PASSED_FILE, FAILED_FILE)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert any(f"{NEAR} " in line and "pass" in line and "fail" in line for line in lines)
    assert lines[-1] == "7 worse, 1 other change of verdict, another outcome"
    assert invoke(FAILED_FILE, PASSED_FILE).exit_code == 0


def test_command_tells_of_waivers_and_the_outcome(tmp_path):
    paths = tmp_path / "old.json", tmp_path / "new.json"
    for path, document in zip(paths, expired_and_valid(), strict=True):
        path.write_text(to_json(document), encoding="utf-8")
    done = invoke(*paths)
    assert done.exit_code == 0
    rows = [line.strip("│ ").split() for line in done.output.splitlines()]
    for name in ("passed", "certifies", "waived"):
        assert [name, "│", "no", "│", "yes"] in rows
    assert [NEAR, "│", "fail", "│", "fail,", "waived"] in rows
    assert done.output.splitlines()[-1] == "1 change of waiver, another outcome"
    # The other way round, a run that passed does not any longer.
    assert invoke(*reversed(paths)).exit_code == 1


def test_command_says_what_tightness_means(tmp_path):
    (tmp_path / "new.json").write_text(to_json(changed(NEAR, tightness=1.0)), encoding="utf-8")
    done = invoke(PASSED_FILE, tmp_path / "new.json")
    assert done.exit_code == 0
    assert "worst error divided by its bound" in done.output
    other = changed(NEAR, tightness=1.0)
    other["run"]["seed"] = 5
    (tmp_path / "new.json").write_text(to_json(other), encoding="utf-8")
    assert "Tightness is not compared: the runs have other seed." in (
        invoke(PASSED_FILE, tmp_path / "new.json").output
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((PASSED_FILE, "nowhere.json"), "nowhere.json"),
        ((PASSED_FILE, __file__), "is not JSON"),
        ((PASSED_FILE, PASSED_FILE, "--factor", "0.5"), "--factor must be at least 1 and finite"),
        ((PASSED_FILE, PASSED_FILE, "--factor", "nan"), "--factor must be at least 1 and finite"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, complaint):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
