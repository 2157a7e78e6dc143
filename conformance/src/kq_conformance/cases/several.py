"""Several calls as one case: for questions that are many and small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases.case import Problem
from kq_conformance.subject import ContractBreachError, Outputs, Subject

__all__ = ["Several"]


@dataclass(frozen=True)
class Several:
    """Calls one after the other; results and complaints begin with the name of their part.

    Attributes:
        parts: the calls by name.
    """

    parts: Mapping[str, Problem]

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        outputs = {}
        for part, problem in self.parts.items():
            try:
                results = problem.call(subject)
            except ContractBreachError as error:
                raise ContractBreachError(f"{part}: {error}") from error
            outputs.update({f"{part} {name}": result for name, result in results.items()})
        return outputs

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        judged = []
        for part, problem in self.parts.items():
            own = {
                name.removeprefix(f"{part} "): result
                for name, result in outputs.items()
                if name.startswith(f"{part} ")
            }
            judged += [
                replace(each, quantity=f"{part} {each.quantity}")
                for each in problem.judge(own, strictness)
            ]
        return judged
