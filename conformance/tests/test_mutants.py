"""Every mutant is caught by the case that names it; the same backend without the mistake passes."""

from collections import Counter

import pytest
from typer.testing import CliRunner

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Profile, by_id, select
from kq_conformance.cli import app
from kq_conformance.cli import mutants as command
from kq_conformance.discovery import find_backend
from kq_conformance.mutants import MUTANTS, Mutant, processes, trial
from kq_conformance.mutants.document import to_markdown
from kq_conformance.mutants.trial import Outcome, try_mutants
from kq_conformance.runner import Finding, Settings, Verdict, run_case

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
# These end or stop the process that runs them.
FATAL = [
    BY_NAME[name]
    for name in (
        "hangs",
        "exits",
        "exits-as-if-all-were-well",
        "raises-system-exit",
        "reads-from-nowhere",
    )
]
BODIES = sorted({(mutant.body, mutant.killer) for mutant in MUTANTS})


def ask(backend: str, case_id: str, **settings) -> Finding:
    found = find_backend(backend)
    return run_case(found, Adapter(found), by_id(case_id), Settings(**settings))


@pytest.mark.parametrize(
    "mutant", [each for each in MUTANTS if each not in FATAL], ids=lambda mutant: mutant.name
)
def test_is_killed_by_its_case(mutant):
    finding = ask(mutant.backend, mutant.killer)
    assert finding.verdict is mutant.verdict, f"{mutant.mistake} {finding.message}"


@pytest.mark.parametrize(("body", "killer"), BODIES)
def test_case_passes_without_the_mistake(body, killer):
    finding = ask(body, killer)
    assert finding.verdict is Verdict.PASS, finding.message


def test_there_are_enough_and_each_is_described():
    assert len(MUTANTS) >= 40
    assert [name for name, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []
    assert [mutant.name for mutant in MUTANTS if not mutant.mistake.endswith(".")] == []
    inherited = [mutant.name for mutant in MUTANTS if "__doc__" not in vars(mutant.made)]
    assert inherited == []


def test_ledger_is_covered():
    entries = {mutant.ledger for mutant in MUTANTS}
    required = {f"D{number}" for number in (1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 14, 16, 18, 22, 26)}
    assert required - entries == set()


def test_killers_belong_to_a_profile_that_certifies():
    core = {case.id for case in select(Profile.CORE)}
    assert [mutant.killer for mutant in MUTANTS if mutant.killer not in core] == []


def test_margin_grants_the_roundings_of_a_reciprocal():
    # x * (1 / absmax) against a rounded midpoint commits exactly the three roundings of the margin,
    # which a third party may; kq's own rule is exact.
    mutant = BY_NAME["reciprocal-in-float32"]
    finding = ask(mutant.backend, mutant.killer, strictness=Strictness.MARGIN)
    assert finding.verdict is Verdict.PASS
    codes = next(each for each in finding.judgements if each.quantity == "codes")
    assert 0 < codes.figures["differing"] <= codes.figures["ambiguous"]
    assert 0 < codes.tightness <= 1


OUTSIDE = "memory outside of packed ({} bytes) was {}, first at byte 1 {}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("writes-past-the-end", OUTSIDE.format(204, "read or written", "past its end")),
        ("writes-before-the-start", OUTSIDE.format(204, "written", "before its start")),
        ("reads-past-the-end", OUTSIDE.format(99, "read or written", "past its end")),
        ("reads-before-the-start", OUTSIDE.format(495, "read or written", "before its start")),
        ("changes-its-input", "the input A was written, first at byte "),
        ("restores-its-input", "the input x was written, first at byte "),
        ("depends-on-threads", "2 threads differ from 1: out["),
        ("depends-on-the-previous-call", "the second run differs from the first: out["),
        ("claims-too-much", "NotImplementedError: blocksize 4096"),
        ("needs-alignment", "RuntimeError: x must be aligned to 16 bytes"),
        ("accepts-any-quant-type", "the call was accepted, and must be refused"),
        ("refuses-too-late", "the call was refused after absmax had been written"),
        ("refuses-by-a-lookup", "KeyError: "),
    ],
)
def test_messages_say_what_happened(name, message):
    mutant = BY_NAME[name]
    assert ask(mutant.backend, mutant.killer).message.startswith(message)


@pytest.fixture(scope="module")
def fatal():
    """The outcomes of the mutants that need a process of their own, with a few cases of quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "select", lambda profile: select(profile, "quantize_*/float32/*"))
        patch.setattr(trial, "_SHORT_TIMEOUT", 2.0)
        counts = []
        outcomes = try_mutants(
            [*FATAL, BY_NAME["swapped-nibbles"]],
            2,
            lambda done, total: counts.append((done, total)),
        )
    assert counts[-1][0] == counts[-1][1] == len(counts)
    return {each.mutant.name: each for each in outcomes}


@pytest.mark.parametrize(
    ("name", "verdict", "message"),
    [
        ("hangs", Verdict.TIMEOUT, "no answer in 2 s"),
        ("exits", Verdict.CRASH, "ended the process with exit code 1"),
        ("reads-from-nowhere", Verdict.CRASH, "ended the process by SIGSEGV"),
    ],
)
def test_fatal_mutants_lose_their_case_only(fatal, name, verdict, message):
    outcome = fatal[name]
    assert outcome.complaint == ""
    assert outcome.finding.verdict is verdict
    assert outcome.finding.message.startswith(message)
    assert outcome.others == ()


def test_others_are_the_cases_of_quick_that_kill_too(fatal):
    outcome = fatal["swapped-nibbles"]
    assert outcome.complaint == ""
    assert "quantize_4bit/fp4/b64/float32/random" in outcome.others
    assert outcome.mutant.killer not in outcome.others
    assert not any(case.startswith("quantize_blockwise") for case in outcome.others)


MUTANT = Mutant(processes.ClaimsTooMuch, "a/b/c", Verdict.OVER_CLAIM, "D7")
DEAD = Outcome(
    MUTANT, Finding("a/b/c", Verdict.OVER_CLAIM), Finding("a/b/c", Verdict.PASS), ("x/1", "x/2")
)
SURVIVOR = Outcome(MUTANT, Finding("a/b/c", Verdict.PASS), Finding("a/b/c", Verdict.PASS), ())


@pytest.mark.parametrize(
    ("finding", "healthy", "complaint"),
    [
        (Verdict.OVER_CLAIM, Verdict.PASS, ""),
        (Verdict.PASS, Verdict.PASS, "survived a/b/c: pass"),
        (Verdict.UNSUPPORTED, Verdict.PASS, "survived a/b/c: unsupported"),
        (Verdict.CRASH, Verdict.PASS, "a/b/c said crash (wrong values) instead of over-claim"),
        (Verdict.OVER_CLAIM, Verdict.FAIL, "OtherAtLargeBlocks does not pass a/b/c either"),
    ],
)
def test_complaints(finding, healthy, complaint):
    outcome = Outcome(MUTANT, Finding("a/b/c", finding), Finding("a/b/c", healthy), ())
    assert complaint in outcome.complaint
    assert bool(complaint) == bool(outcome.complaint)


def test_markdown():
    text = to_markdown([DEAD, SURVIVOR])
    lines = text.splitlines()
    assert lines[0] == "# Mutants"
    assert (
        "## Backends that do not answer: they raise, hang, or take the process with them" in lines
    )
    assert lines[-2] == (
        "| claims-too-much | D7 | Block size 4096 is declared, and refused. | `a/b/c` | over-claim"
        " | x 2 |"
    )
    assert "| **survived a/b/c: pass** | 0 |" in lines[-1]


class TestCommand:
    @pytest.mark.parametrize(
        ("outcome", "code", "words"),
        [
            (DEAD, 0, "1 of 1 mutants died as they should"),
            (SURVIVOR, 1, "claims-too-much: survived a/b/c: pass"),
        ],
    )
    def test_exit_code(self, monkeypatch, tmp_path, outcome, code, words):
        monkeypatch.setattr(command, "try_mutants", lambda *_: [outcome])
        path = tmp_path / "mutants.md"
        result = CliRunner().invoke(app, ["mutants", "--markdown", str(path)])
        assert result.exit_code == code
        assert words in result.output
        assert path.read_text() == to_markdown([outcome])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--select", "no-such"], "error: --select 'no-such' matches no mutant"),
            (["--markdown", "/no/such/folder/x.md"], "error: --markdown must name a file in"),
            (["--markdown", "/proc/x.md"], "error: --markdown: /proc/x.md cannot be written: "),
            (
                ["--select", "claims-*", "--markdown", "x.md"],
                "error: --select and --markdown cannot be given together",
            ),
        ],
    )
    def test_what_cannot_be_done(self, arguments, message):
        result = CliRunner().invoke(app, ["mutants", *arguments])
        assert result.exit_code == 2
        assert message in result.output
        assert len(result.stderr.splitlines()) == 1

    def test_a_table_that_cannot_be_written_is_one_line(self, monkeypatch, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()

        def vanish(*_arguments):
            folder.rmdir()
            return [DEAD]

        monkeypatch.setattr(command, "try_mutants", vanish)
        path = folder / "mutants.md"
        result = CliRunner().invoke(app, ["mutants", "--markdown", str(path)])
        assert result.exit_code == 2
        assert "1 of 1 mutants died as they should" in result.stdout
        assert f"error: {path} cannot be written: No such file" in result.stderr
