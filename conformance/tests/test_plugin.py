"""The suite as a pytest plugin, in a pytest of its own."""

import subprocess
import sys

import pytest

REFERENCE = "kq_conformance.reference_backend:backend"
SELECTION = "quantize_4bit/nf4/b4096/float32/random"


@pytest.fixture
def suite(tmp_path):
    def run(*options):
        command = [sys.executable, "-m", "pytest", "-q", "-rsfx", "--pyargs", "kq_conformance"]
        return subprocess.run(
            [*command, "-p", "no:cacheprovider", *options],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_cases_are_tests(suite):
    done = suite("--kq-backend", REFERENCE, "--kq-profile", "full", "--kq-select", SELECTION)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_crash_is_a_failure_that_says_how_to_reproduce_it(suite):
    backend = "kq_conformance.mutants.processes:ReadsFromNowhere"
    done = suite("--kq-backend", backend, "--kq-profile", "full", "--kq-select", SELECTION)
    assert done.returncode == 1
    assert f"kq-conformance run --backend {backend} --select '{SELECTION}'" in done.stdout
    assert "ended the process by SIGSEGV" in done.stdout


def test_a_waived_failure_is_expected(suite, tmp_path):
    waivers = tmp_path / "waivers.toml"
    waivers.write_text(
        '[[waiver]]\nselect = "quantize*"\nreason = "known"\nlink = "https://example.org/1"\n'
        "expires = 9999-12-31\n"
    )
    backend = "kq_conformance.mutants.processes:Exits"
    done = suite(
        "--kq-backend", backend, "--kq-profile", "full", "--kq-select", SELECTION,
        "--kq-waivers", str(waivers),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout
    assert "until 9999-12-31: known" in done.stdout


def test_needs_a_backend(suite):
    done = suite()
    assert done.returncode == 4
    assert "kq_conformance needs --kq-backend" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kq-backend", "nowhere"), "'nowhere' is not registered"),
        (("--kq-backend", REFERENCE, "--kq-select", "no/*"), "--kq-select 'no/*' matches no case"),
        (("--kq-backend", REFERENCE, "--kq-timeout", "0"), "--kq-timeout must be a number of"),
        (("--kq-backend", REFERENCE, "--kq-waivers", "none.toml"), "none.toml: No such file"),
    ],
)
def test_bad_options_are_usage_errors(suite, options, message):
    done = suite(*options)
    assert done.returncode == 4
    assert done.stderr.startswith("ERROR: ")
    assert message in done.stderr
