"""Cases of calls that every backend must refuse: formats and rules that do not exist."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases.case import Case, Mode, Problem, Profile
from kq_conformance.cases.contract import contract_case
from kq_conformance.cases.draw import Draw
from kq_conformance.floats import FORMATS
from kq_conformance.subject import Outputs, Rounding, Subject

__all__ = ["refusal_cases"]


class _Altered:
    """A subject whose calls get other formats or another rule; tensors stay as they are."""

    def __init__(self, subject: Subject, changes: dict[str, Any]) -> None:
        self._subject = subject
        self._changes = changes

    def __getattr__(self, op: str) -> Callable[..., Outputs]:
        function = getattr(self._subject, op)

        def call(*args: Any, **options: Any) -> Outputs:
            if "rule" in self._changes:  # the first argument of an optimizer step
                return cast(Outputs, function(self._changes["rule"], *args[1:], **options))
            return cast(Outputs, function(*args, **options | self._changes))

        return call


@dataclass(frozen=True)
class Refused:
    """A call that would be right but for one value."""

    problem: Problem
    changes: dict[str, Any]

    def call(self, subject: Subject) -> Outputs:
        return self.problem.call(cast(Subject, _Altered(subject, self.changes)))

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """A call that returned is judged by the runner."""
        del outputs, strictness
        return ()


# What is called, as the ids of cases with right values say it, and which blocks do not exist there.
_CALLS = {
    "quantize_4bit/nf4/b64/{}/random": (48, 0, -64),
    "dequantize_4bit/nf4/b64/{}/tail-c65": (48, 0, -64),
    "quantize_blockwise/dynamic-signed/b256/{}/random": (0, -64),
    "dequantize_blockwise/dynamic-signed/b256/{}/all-codes": (0, -64),
    "linear_4bit/nf4/b64/{}/m5-n33-k257": (48, 0, -64),
    "linear_4bit_backward/nf4/b64/{}/m5-n33-k257": (48, 0, -64),
    "linear_4bit_grouped/nf4/b64/{}/uneven-n33-k257": (48, 0, -64),
    "linear_4bit_grouped_backward/nf4/b64/{}/uneven-n33-k257/nested": (48, 0, -64),
    "optimizer_step_8bit/adam/{}/plain": (),
    "optimizer_step_32bit/adam/{}/plain": (),
}


def _refused(case: Case, name: str, changes: dict[str, Any]) -> Case:
    head, dtype, _ = case.id.partition(f"/{case.demand.dtype}/")

    def make(draw: Draw) -> Refused:
        return Refused(case.make(draw), changes)

    return Case(f"{head}{dtype}{name}", Profile.CORE, case.demand, make, Mode.REFUSAL)


def refusal_cases() -> Iterator[Case]:
    """All cases of calls with a value that no backend knows."""
    for pattern, sizes in _CALLS.items():
        for dtype in FORMATS:
            case = contract_case(pattern.format(dtype))
            if case.demand.quant_type is not None:
                yield _refused(case, "refuse-quant-type", {"quant_type": "nf5"})
            for size in sizes:
                yield _refused(case, f"refuse-blocksize/{size}", {"blocksize": size})
            if case.demand.rule is not None:
                yield _refused(case, "refuse-rule", {"rule": "nadam"})
                yield _refused(case, "refuse-rounding", {"rounding": Rounding("upward")})
