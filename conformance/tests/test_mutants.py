"""Every mutant is caught by the case that names it; the healthy backend passes that case."""

import pytest

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Case, Profile, select
from kq_conformance.mutants import MUTANTS, Mutant
from kq_conformance.numpy_backend import backend
from kq_conformance.runner import Settings, Verdict, run_case

CASES = {case.id: case for case in select(Profile.CORE)}


def killer(mutant: Mutant) -> Case:
    return CASES[mutant.killer]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_killed_by_its_case(mutant):
    finding = run_case(Adapter(mutant.make()), killer(mutant), Settings())
    assert not finding.verdict.acceptable, mutant.mistake


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_case_passes_without_the_mistake(mutant):
    assert run_case(Adapter(backend), killer(mutant), Settings()).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("claims-too-much", Verdict.OVER_CLAIM),
        ("crashes-when-empty", Verdict.CRASH),
        ("writes-past-the-end", Verdict.FAIL),
    ],
)
def test_kinds_of_death(name, verdict):
    mutant = next(each for each in MUTANTS if each.name == name)
    assert run_case(Adapter(mutant.make()), killer(mutant), Settings()).verdict is verdict


def test_margin_grants_the_roundings_of_a_reciprocal():
    # x * (1 / absmax) against a rounded midpoint commits exactly the three roundings of the margin,
    # which a third party may; kq's own rule is exact.
    mutant = next(each for each in MUTANTS if each.name == "rounded-ratio")
    settings = Settings(strictness=Strictness.MARGIN)
    finding = run_case(Adapter(mutant.make()), killer(mutant), settings)
    assert finding.verdict is Verdict.PASS
    codes = next(each for each in finding.judgements if each.quantity == "codes")
    assert 0 < codes.figures["differing"] <= codes.figures["ambiguous"]
    assert 0 < codes.tightness <= 1


def test_messages_say_what_happened():
    messages = {
        mutant.name: run_case(Adapter(mutant.make()), killer(mutant), Settings()).message
        for mutant in MUTANTS
    }
    assert "packed" in messages["writes-past-the-end"]
    assert "1 past its end" in messages["writes-past-the-end"]
    assert messages["changes-its-input"].startswith("the input A was changed")
    assert messages["changes-with-time"].startswith("the second run differs")
    assert messages["claims-too-much"] == "NotImplementedError: blocksize 4096"
