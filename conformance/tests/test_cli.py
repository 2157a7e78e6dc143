"""The command line as a user meets it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kq_conformance import __version__
from kq_conformance.cli import app
from kq_conformance.cli import run as command

REFERENCE = "kq_conformance.reference_backend:backend"
PASSED = Path(__file__).parent / "golden" / "report-passed.json"
SELECTION = "dequantize_4bit/nf4/b64/float??/all-codes"


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_run_passes_and_reports(tmp_path):
    path = tmp_path / "report.json"
    done = invoke("run", "--backend", REFERENCE, "--select", SELECTION, "--json", str(path))
    assert done.exit_code == 0, done.output
    assert "2 pass; profile full does not certify reference" in done.output
    document = json.loads(path.read_text())
    assert document["passed"] is True
    assert document["backend"]["name"] == "reference"
    assert {"torch", "numpy", "python", "processor"} <= set(document["environment"])
    assert len(document["cases"]) == 2


def test_run_fails_with_an_explanation():
    mutant = "kq_conformance.mutants.quantizers:SwappedNibbles"
    done = invoke("run", "--backend", mutant, "--select", "quantize_4bit/nf4/b64/*/random")
    assert done.exit_code == 1
    assert "FAIL  quantize_4bit/nf4/b64/float32/random" in done.output
    assert "codes, exact: code = order" in done.output


def test_waived_failures_are_shown_and_do_not_fail(tmp_path):
    waivers = tmp_path / "waivers.toml"
    waivers.write_text(
        '[[waiver]]\nselect = "*/float32/random"\nreason = "known"\n'
        'link = "https://example.org/1"\nexpires = 9999-12-31\n'
    )
    mutant = "kq_conformance.mutants.processes:ClaimsTooMuch"
    done = invoke(
        "run", "--backend", mutant, "--select", "quantize_4bit/nf4/*/float32/random",
        "--waivers", str(waivers), "-j", "2",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "OVER-CLAIM  quantize_4bit/nf4/b4096/float32/random" in done.output
    assert "waived     until 9999-12-31: known (https://example.org/1)" in done.output
    assert "waiver '*/float32/random' is used (1 cases)" in done.output


def test_list_prints_ids():
    done = invoke("list", "--select", SELECTION)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"dequantize_4bit/nf4/b64/{dtype}/all-codes" for dtype in ("float32", "float16")
    ]


def test_version():
    assert invoke("version").output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "nowhere"), "backend 'nowhere' is not registered"),
        (
            ("--backend", REFERENCE, "--profile", "huge"),
            "--profile must be one of quick, core, full",
        ),
        (("--backend", REFERENCE, "--select", "nothing*"), "--select 'nothing*' matches no case"),
        (("--backend", REFERENCE, "--rules", "lax"), "--rules must be one of exact, margin"),
        (
            ("--backend", REFERENCE, "--json", "/no/such/folder/r.json"),
            "--json must name a file in",
        ),
        (
            ("--backend", REFERENCE, "--json", "/proc/report.json"),
            "--json: /proc/report.json cannot be written: ",
        ),
        (
            ("--backend", REFERENCE, "--json", "r" * 250),
            "cannot be written: File name too long",
        ),
        (("--backend", REFERENCE, "--device", "abacus"), "device 'abacus' cannot hold tensors"),
        (("--backend", REFERENCE, "--timeout", "0"), "--timeout must be a number of seconds above"),
        (
            ("--backend", REFERENCE, "--waivers", "/no/such.toml"),
            "--waivers: /no/such.toml: No such",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    done = invoke("run", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()

    def vanish(*_arguments):
        folder.rmdir()
        return []

    monkeypatch.setattr(command, "_run_all", vanish)
    done = invoke("run", "--backend", REFERENCE, "--json", str(folder / "report.json"))
    assert done.exit_code == 2
    assert done.stderr.startswith(
        f"error: {folder / 'report.json'} cannot be written: No such file"
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("change", [{"cases": [1]}, {"run": {}}, {"rules": 1}])
@pytest.mark.parametrize("name", ["render", "diff", "support"])
def test_reports_of_another_layout_are_one_line_and_exit_code_2(tmp_path, name, change):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(json.loads(PASSED.read_text(encoding="utf-8")) | change))
    done = invoke(name, *[str(path)] * (2 if name == "diff" else 1))
    assert done.exit_code == 2
    assert f"report.json is not a valid report: $.{next(iter(change))}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
