"""Asking the suite about its mutants: does each die, of what, and of what else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kq_conformance.cases import Profile, select
from kq_conformance.mutants.mutant import Mutant
from kq_conformance.pool import Task, run_tasks
from kq_conformance.runner import Finding, Settings, Verdict

__all__ = ["Outcome", "try_mutants"]

_TIMEOUT = 60.0
_SHORT_TIMEOUT = 5.0  # for a backend of which it is known that it hangs


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: the broken backend.
        finding: what its killer says of it.
        healthy: what its killer says of the same backend without the mistake.
        others: ids of the other cases of the quick profile that it does not pass.
    """

    mutant: Mutant
    finding: Finding
    healthy: Finding
    others: tuple[str, ...]

    @property
    def complaint(self) -> str:
        """Why the suite, or the mutant, is at fault; empty if the mutant died as it should."""
        if self.finding.verdict.acceptable:
            return f"survived {self.mutant.killer}: {self.finding.verdict}"
        if self.healthy.verdict is not Verdict.PASS:
            message = self.healthy.message or "wrong values"
            return f"{self.mutant.body} does not pass {self.mutant.killer} either: {message}"
        if self.finding.verdict is not self.mutant.verdict:
            found = f"{self.finding.verdict} ({self.finding.message or 'wrong values'})"
            return f"{self.mutant.killer} said {found} instead of {self.mutant.verdict}"
        return ""


def try_mutants(
    mutants: Sequence[Mutant], workers: int, progress: Callable[[int, int], None]
) -> list[Outcome]:
    """Run the killer of each mutant, on it and on its healthy body, and the quick profile on it.

    Args:
        mutants: which.
        workers: number of processes.
        progress: called after each answer with the number of answers and of questions.
    """
    settings = Settings()
    quick = [case.id for case in select(Profile.QUICK)]
    tasks = [Task(each.body, each.killer, settings) for each in mutants]
    hanging = [each for each in mutants if each.verdict is Verdict.TIMEOUT]
    tasks += [
        Task(each.backend, case, settings)
        for each in mutants
        for case in (*quick, each.killer)
        if each not in hanging or case != each.killer
    ]
    # Case by case: a worker keeps the last one's inputs, and what it said of equal answers.
    tasks = sorted(dict.fromkeys(tasks), key=lambda task: task.case_id)
    slow = [Task(each.backend, each.killer, settings) for each in hanging]

    found: dict[Task, Finding] = {}
    for questions, timeout in ((tasks, _TIMEOUT), (slow, _SHORT_TIMEOUT)):
        for task, finding in run_tasks(questions, workers, timeout):
            found[task] = finding
            progress(len(found), len(tasks) + len(slow))

    def outcome(mutant: Mutant) -> Outcome:
        others = tuple(
            case
            for case in quick
            if case != mutant.killer
            and not found[Task(mutant.backend, case, settings)].verdict.acceptable
        )
        return Outcome(
            mutant,
            found[Task(mutant.backend, mutant.killer, settings)],
            found[Task(mutant.body, mutant.killer, settings)],
            others,
        )

    return [outcome(mutant) for mutant in mutants]
