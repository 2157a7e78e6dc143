"""Worker processes: what ends one costs the case at hand, and no other."""

import pytest

from kq_conformance.cases import by_id
from kq_conformance.discovery import BackendError
from kq_conformance.pool import Task, ask, describe, open_pool, run_tasks
from kq_conformance.runner import Settings, Verdict

REFERENCE = "kq_conformance.reference_backend:backend"
CASE = "quantize_4bit/nf4/b4096/float32/random"
OTHERS = ["quantize_4bit/nf4/b64/float32/random", "quantize_4bit/nf4/b64/float32/zeros"]


ODD = """
import sys
from types import SimpleNamespace

def odd(**changes):
    usual = {"name": "odd", "version": "1", "capabilities": (), "describe": dict}
    return SimpleNamespace(**(usual | changes))

def leaves():
    sys.exit(0)

def breaks():
    raise RuntimeError("first line\\nsecond line")

nameless = odd(name=None)
mute = odd(describe=lambda: None)
vague = odd(capabilities=[1])
wordy = odd(capabilities=[SimpleNamespace(
    op="quantize_4bit", dtypes="float32", devices=None, quant_types=set(), blocksizes=None,
    rules=set(),
)])
"""


def mutant(name):
    return f"kq_conformance.mutants.processes:{name}"


@pytest.fixture(scope="module")
def pool():
    with open_pool(1) as opened:
        yield opened


def test_the_parent_learns_who_the_backend_is():
    described = describe(REFERENCE, "cpu", 60)
    assert (described.name, described.version) == ("reference", "0.1.0")
    assert set(described.environment) == {"torch", "accelerator"}


@pytest.mark.parametrize(
    ("name", "device", "error", "message"),
    [
        ("nowhere", "cpu", BackendError, "is not registered"),
        ("no.such:thing", "cpu", BackendError, "No module named 'no'"),
        (REFERENCE, "abacus", ValueError, "cannot hold tensors"),
        ("odd_backends:leaves", "cpu", BackendError, "ended with SystemExit: 0"),
        ("odd_backends:breaks", "cpu", BackendError, "RuntimeError: first line$"),
        ("odd_backends:nameless", "cpu", BackendError, "name must be a text .* got None"),
        ("odd_backends:mute", "cpu", BackendError, "does not describe itself: TypeError"),
        ("odd_backends:vague", "cpu", BackendError, "a capability must have the attribute 'op'"),
        ("odd_backends:wordy", "cpu", BackendError, "dtypes of the capability .* must be a set"),
    ],
)
def test_what_cannot_be_loaded(name, device, error, message, tmp_path, monkeypatch):
    # A worker looks for modules in the working folder.
    (tmp_path / "odd_backends.py").write_text(ODD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        describe(name, device, 60)


@pytest.mark.parametrize(
    ("name", "verdict", "message"),
    [
        ("Exits", Verdict.CRASH, "ended the process with exit code 1"),
        ("ExitsAsIfAllWereWell", Verdict.CRASH, "ended the process with exit code"),
        ("RaisesSystemExit", Verdict.CRASH, "SystemExit: 0"),
        ("ReadsFromNowhere", Verdict.CRASH, "ended the process by SIGSEGV"),
        ("Hangs", Verdict.TIMEOUT, "no answer in 5 s"),
    ],
)
def test_a_lost_worker_costs_one_case(pool, name, verdict, message):
    # The first answer loads torch; the time for the one that hangs begins afterwards.
    found = [
        ask(pool, Task(mutant(name), case_id, Settings()), timeout)
        for case_id, timeout in ((OTHERS[0], 60), (CASE, 5), (OTHERS[1], 60))
    ]
    assert [each.verdict for each in found] == [Verdict.PASS, verdict, Verdict.PASS]
    assert found[1].case_id == CASE
    assert message in found[1].message


def test_every_task_is_answered_once():
    tasks = [Task(REFERENCE, case_id, Settings()) for case_id in [*OTHERS, CASE]]
    answered = dict(run_tasks(tasks, workers=2, timeout=60))
    assert set(answered) == set(tasks)
    assert {finding.verdict for finding in answered.values()} == {Verdict.PASS}


def test_no_task_is_no_work():
    assert list(run_tasks([], workers=2, timeout=60)) == []


def test_ids_must_exist():
    with pytest.raises(ValueError, match="there is no case 'nothing'"):
        by_id("nothing")
