"""Asking a backend the cases, and turning each answer into a verdict."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases import Case, Mode, Problem
from kq_conformance.discovery import declares, in_words
from kq_conformance.subject import (
    REFUSALS,
    ContractBreachError,
    Outputs,
    Placement,
    RouteMissingError,
    Subject,
)

__all__ = ["Finding", "Settings", "Verdict", "run_case"]


class Verdict(StrEnum):
    """What a case says about a backend."""

    PASS = "pass"
    FAIL = "fail"
    UNSUPPORTED = "unsupported"  # not declared, and does not work: an honest declaration
    OVER_CLAIM = "over-claim"  # declared, but refused
    UNDER_CLAIM = "under-claim"  # works, but not declared
    CRASH = "crash"  # raised something that is not a refusal, or ended the process
    TIMEOUT = "timeout"  # did not come back

    @property
    def acceptable(self) -> bool:
        """Whether a run with this verdict can still succeed."""
        return self in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.UNDER_CLAIM)


# More threads than this machine has cores are threads, too: they split the work otherwise.
_THREADS = (1, 2, 3)


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        seed: added to each case's id for its random numbers.
        strictness: exact rules of kq's formats, or the margin that third parties get.
        device: torch device type.
        probe: also try what is not declared, to find under-claims.
    """

    seed: int = 0
    strictness: Strictness = Strictness.EXACT
    device: str = "cpu"
    probe: bool = True


@dataclass(frozen=True)
class Finding:
    """The verdict on one case.

    Attributes:
        case_id: the question.
        verdict: the answer's worth.
        judgements: one for each result tensor.
        message: what was raised or breached; empty otherwise.
        seconds: time in the backend and in the judge.
        failed: the first judgement that was not passed, if any.
    """

    case_id: str
    verdict: Verdict
    judgements: tuple[Judgement, ...] = ()
    message: str = ""
    seconds: float = 0.0
    failed: Judgement | None = None

    @property
    def tightest(self) -> Judgement | None:
        """The judgement with the largest error ÷ bound."""
        return max(self.judgements, key=lambda each: each.tightness, default=None)

    @property
    def tightness(self) -> float:
        """Worst error ÷ bound over the results; 0 if every answer was exact."""
        return 0.0 if self.tightest is None else self.tightest.tightness


def run_case(backend: Any, subject: Subject, case: Case, settings: Settings) -> Finding:
    """Ask one question.

    What is not declared must be refused; a backend may also have no such method at all.

    Args:
        backend: for its `capabilities` and methods.
        subject: the backend behind the adapter.
        case: the question.
        settings: how to run.
    """
    declared = declares(backend.capabilities, case.demand, settings.device)
    if not declared and not (settings.probe and hasattr(backend, case.demand.op)):
        return Finding(case.id, Verdict.UNSUPPORTED)
    problem = _problem(case, settings.seed)
    start = time.perf_counter()

    def finding(verdict: Verdict, **details: Any) -> Finding:
        return Finding(case.id, verdict, seconds=time.perf_counter() - start, **details)

    try:
        outputs = _MODES[case.mode](problem, subject)
    except RouteMissingError as error:
        return finding(Verdict.UNSUPPORTED, message=str(error))
    except ContractBreachError as error:
        return finding(Verdict.FAIL, message=str(error))
    except REFUSALS as error:
        if not declared:
            return finding(Verdict.UNSUPPORTED)
        return finding(Verdict.OVER_CLAIM, message=in_words(error))
    except Exception as error:
        return finding(Verdict.CRASH, message=in_words(error))
    judgements = () if outputs is None else tuple(problem.judge(outputs, settings.strictness))
    failed = next((each for each in judgements if not each.passed), None)
    if failed is not None:
        message = "" if declared else "this is not declared, and was neither refused nor done right"
        return finding(Verdict.FAIL, judgements=judgements, failed=failed, message=message)
    if declared:
        return finding(Verdict.PASS, judgements=judgements)
    # To refuse what must be refused is no ability.
    refused = case.mode is Mode.REFUSAL
    return finding(Verdict.UNSUPPORTED if refused else Verdict.UNDER_CLAIM)


class _Remembering:
    """A problem that judges equal answers once: most mutants answer most cases alike."""

    def __init__(self, problem: Problem) -> None:
        self.call = problem.call
        self._judge = problem.judge
        self._judged: dict[Hashable, Sequence[Judgement]] = {}

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        answer = tuple(
            (name, stored.dtype, stored.bits.shape, stored.bits.tobytes())
            for name, stored in outputs.items()
        )
        if (answer, strictness) not in self._judged:
            self._judged[answer, strictness] = self._judge(outputs, strictness)
        return self._judged[answer, strictness]


def _problem(case: Case, seed: int) -> Problem:
    # The inputs of large cases must not stay when the next one begins.
    return case.problem(seed) if case.memory else _last_problem(case, seed)


@lru_cache(maxsize=1)
def _last_problem(case: Case, seed: int) -> Problem:
    return _Remembering(case.problem(seed))


# Results to compare with the reference, or None where they have been compared with each other.
_Asked = Callable[[Problem, Subject], Outputs | None]


def _placed(placement: Placement) -> _Asked:
    def ask(problem: Problem, subject: Subject) -> Outputs:
        with subject.placed(placement):
            return problem.call(subject)

    return ask


def _repeat(problem: Problem, subject: Subject) -> None:
    first = problem.call(subject)
    _same(first, problem.call(subject), "the second run differs from the first")


def _threads(problem: Problem, subject: Subject) -> None:
    results = []
    for number in _THREADS:
        with subject.threads(number):
            results.append(problem.call(subject))
        _same(results[0], results[-1], f"{number} threads differ from {_THREADS[0]}")


def _refusal(problem: Problem, subject: Subject) -> None:
    try:
        problem.call(subject)
    except REFUSALS:
        return
    raise ContractBreachError("the call was accepted, and must be refused")


_MODES: dict[Mode, _Asked] = {
    Mode.VALUES: _placed(Placement.END),
    Mode.BEFORE: _placed(Placement.BEFORE),
    Mode.OFFSET: _placed(Placement.OFFSET),
    Mode.STRIDED: _placed(Placement.STRIDED),
    Mode.REPEAT: _repeat,
    Mode.THREADS: _threads,
    Mode.REFUSAL: _refusal,
}


def _same(first: Outputs, second: Outputs, complaint: str) -> None:
    """Compare two results bit for bit.

    Raises:
        ContractBreachError: naming the tensor and its first differing element.
    """
    for name, stored in first.items():
        different = np.argwhere(stored.bits != second[name].bits)
        if len(different):
            index = tuple(int(i) for i in different[0])
            raise ContractBreachError(
                f"{complaint}: {name}{list(index)}, {len(different)} elements"
            )
