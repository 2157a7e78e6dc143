"""Asking a backend the cases, and turning each answer into a verdict."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases import Case, Mode, Problem
from kq_conformance.discovery import declares
from kq_conformance.subject import ContractBreachError, Outputs, Subject

__all__ = ["Finding", "Settings", "Verdict", "run_case", "run_cases"]


class Verdict(StrEnum):
    """What a case says about a backend."""

    PASS = "pass"
    FAIL = "fail"
    UNSUPPORTED = "unsupported"  # not declared, and does not work: an honest declaration
    OVER_CLAIM = "over-claim"  # declared, but refused
    UNDER_CLAIM = "under-claim"  # works, but not declared
    CRASH = "crash"  # raised something that is not a refusal

    @property
    def acceptable(self) -> bool:
        """Whether a run with this verdict can still succeed."""
        return self in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.UNDER_CLAIM)


# How a backend says that it does not do something.
_REFUSALS = (NotImplementedError, TypeError, ValueError)
# More threads than this machine has cores are threads, too: the split of the work is what changes
# it.
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
        case: the question.
        verdict: the answer's worth.
        judgements: one for each result tensor.
        message: what was raised or breached; empty otherwise.
        seconds: time in the backend and in the judge.
        failed: the first judgement that was not passed, if any.
    """

    case: Case
    verdict: Verdict
    judgements: tuple[Judgement, ...] = ()
    message: str = ""
    seconds: float = 0.0
    failed: Judgement | None = None

    @property
    def tightness(self) -> float:
        """Worst error ÷ bound over the results; 0 if every answer was exact."""
        return max((each.tightness for each in self.judgements), default=0.0)


def run_cases(
    backend: Any, subject: Subject, cases: Iterable[Case], settings: Settings
) -> Iterator[Finding]:
    """Run cases one after the other.

    Args:
        backend: for its `capabilities`.
        subject: the backend behind the adapter.
        cases: the questions.
        settings: how to run.
    """
    capabilities = tuple(backend.capabilities)
    for case in cases:
        declared = declares(capabilities, case.demand, settings.device)
        if declared or settings.probe:
            yield run_case(subject, case, settings, declared=declared)
        else:
            yield Finding(case, Verdict.UNSUPPORTED)


def run_case(subject: Subject, case: Case, settings: Settings, *, declared: bool = True) -> Finding:
    """Ask one question.

    Args:
        subject: the backend behind the adapter.
        case: the question.
        settings: how to run.
        declared: whether the backend has declared that it can do this.
    """
    problem = case.problem(settings.seed)
    start = time.perf_counter()

    def finding(verdict: Verdict, **details: Any) -> Finding:
        return Finding(case, verdict, seconds=time.perf_counter() - start, **details)

    try:
        outputs = _MODES[case.mode](problem, subject)
    except Exception as error:
        if not declared:
            return finding(Verdict.UNSUPPORTED)
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, ContractBreachError):
            return finding(Verdict.FAIL, message=str(error))
        refused = isinstance(error, _REFUSALS)
        return finding(Verdict.OVER_CLAIM if refused else Verdict.CRASH, message=message)
    judgements = (
        tuple(problem.judge(outputs, settings.strictness)) if case.mode is Mode.VALUES else ()
    )
    failed = next((each for each in judgements if not each.passed), None)
    if not declared:
        return finding(Verdict.UNSUPPORTED if failed else Verdict.UNDER_CLAIM)
    verdict = Verdict.FAIL if failed else Verdict.PASS
    return finding(verdict, judgements=judgements, failed=failed)


def _values(problem: Problem, subject: Subject) -> Outputs:
    return problem.call(subject)


def _repeat(problem: Problem, subject: Subject) -> Outputs:
    first = problem.call(subject)
    _same(first, problem.call(subject), "the second run differs from the first")
    return first


def _threads(problem: Problem, subject: Subject) -> Outputs:
    results = []
    for number in _THREADS:
        with subject.threads(number):
            results.append(problem.call(subject))
        _same(results[0], results[-1], f"{number} threads differ from {_THREADS[0]}")
    return results[0]


_MODES: dict[Mode, Callable[[Problem, Subject], Outputs]] = {
    Mode.VALUES: _values,
    Mode.REPEAT: _repeat,
    Mode.THREADS: _threads,
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
