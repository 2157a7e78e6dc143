"""The failures of a report, each with all that a person needs to look into it."""

import math
from dataclasses import dataclass
from typing import Any

from kq_conformance.bounds import Strictness
from kq_conformance.cases import address
from kq_conformance.explain import reproduction
from kq_conformance.render.matrix import number
from kq_conformance.runner import Settings, Verdict

__all__ = ["Failure", "Violation", "failures"]


@dataclass(frozen=True)
class Violation:
    """A result that is not what it may be, at its worst element.

    Attributes:
        element: the tensor and the index, such as "absmax[0, 3]".
        got: what the backend gave.
        expected: what the reference gives.
        allowed: the least and the largest allowed value.
        note: what these numbers do not show; usually empty.
        count: how many elements are wrong, and by how much.
        rule: name and statement of the rule.
        source: where the rule is derived.
    """

    element: str
    got: str
    expected: str
    allowed: str
    note: str
    count: str
    rule: str
    source: str


@dataclass(frozen=True)
class Failure:
    """A case that was not passed.

    Attributes:
        case: its id.
        cell: its operation, format and dtype.
        verdict: what happened.
        waived: the reason, if a waiver covers it.
        message: what was raised or breached; empty otherwise.
        reproduction: the command that runs it alone.
        violations: the results that were wrong.
    """

    case: str
    cell: tuple[str, str, str]
    verdict: str
    waived: str
    message: str
    reproduction: str
    violations: tuple[Violation, ...]


def failures(document: dict[str, Any]) -> list[Failure]:
    """All cases with a verdict that is not acceptable, waived or not, in the report's order."""
    return [
        _failure(document, case)
        for case in document["cases"]
        if not Verdict(case["verdict"]).acceptable
    ]


def _failure(document: dict[str, Any], case: dict[str, Any]) -> Failure:
    op, format_, _, dtype, _ = address(case["id"])
    run = document["run"]
    settings = Settings(run["seed"], Strictness(run["rules"]), run["device"])
    wrong = (each for each in case.get("results", ()) if each["violations"])
    return Failure(
        case["id"],
        (op, format_, dtype),
        case["verdict"],
        case.get("waived", ""),
        case.get("message", ""),
        reproduction(document["backend"]["argument"], case["id"], settings),
        tuple(_violation(document, each) for each in wrong),
    )


def _violation(document: dict[str, Any], result: dict[str, Any]) -> Violation:
    worst = result["worst"]
    rule = document["rules"][result["rule"]]
    excess = number(result["tightness"])
    times = f", {excess:.3g} times the bound" if math.isfinite(excess) else ""
    low, high = worst["lowest"], worst["highest"]
    return Violation(
        f"{result['quantity']}{worst['place']}",
        _text(worst["got"]),
        _text(worst["expected"]),
        _text(low) if low == high else f"{_text(low)} to {_text(high)}",
        worst.get("note", ""),
        f"{result['violations']:,} of {result['elements']:,} elements wrong{times}",
        f"{result['rule']}: {rule['statement']}",
        rule["source"],
    )


def _text(value: float | str) -> str:
    """All digits; the texts that stand for infinities and NaN as they are."""
    return value if isinstance(value, str) else repr(value)
