"""The command line as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from kq_conformance import __version__
from kq_conformance.cli import app

NUMPY = "kq_conformance.numpy_backend:backend"
SELECTION = "dequantize_4bit/nf4/b64/*/all-codes"


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_run_passes_and_reports(tmp_path):
    path = tmp_path / "report.json"
    done = invoke("run", "--backend", NUMPY, "--select", SELECTION, "--json", str(path))
    assert done.exit_code == 0, done.output
    assert "3 pass; profile full does not certify numpy" in done.output
    document = json.loads(path.read_text())
    assert document["passed"] is True
    assert document["backend"]["name"] == "numpy"
    assert {"torch", "numpy", "python", "processor"} <= set(document["environment"])
    assert len(document["cases"]) == 3


def test_run_fails_with_an_explanation():
    mutant = "kq_conformance.mutants:_SwappedNibbles"
    done = invoke("run", "--backend", mutant, "--select", "quantize_4bit/nf4/b64/*/random")
    assert done.exit_code == 1
    assert "FAIL  quantize_4bit/nf4/b64/float32/random" in done.output
    assert "codes, exact: code = order" in done.output


def test_list_prints_ids():
    done = invoke("list", "--select", SELECTION)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"dequantize_4bit/nf4/b64/{dtype}/all-codes" for dtype in ("float32", "bfloat16", "float16")
    ]


def test_version():
    assert invoke("version").output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "nowhere"), "backend 'nowhere' is not registered"),
        (("--backend", NUMPY, "--profile", "huge"), "--profile must be one of quick, core, full"),
        (("--backend", NUMPY, "--select", "nothing*"), "--select 'nothing*' matches no case"),
        (("--backend", NUMPY, "--rules", "lax"), "--rules must be one of exact, margin"),
        (("--backend", NUMPY, "--json", "/no/such/folder/r.json"), "--json must name a file in"),
        (("--backend", NUMPY, "--device", "abacus"), "--device 'abacus' cannot hold tensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    done = invoke("run", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
