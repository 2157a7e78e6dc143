"""The cases whose bound no backend comes near, with the explanations that there are."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kq_conformance.cases import address
from kq_conformance.render.explanations import LOOSE, Explanation
from kq_conformance.render.matrix import Extreme, number
from kq_conformance.runner import Verdict

__all__ = ["Group", "LooseCases", "loose_cases"]


@dataclass(frozen=True)
class Group:
    """Cases that are told together.

    Attributes:
        select: a glob that all of them match.
        because: why they are as they are; empty if nobody has said so.
        count: how many there are.
        nearest: the one that comes nearest to its bound.
    """

    select: str
    because: str
    count: int
    nearest: Extreme


@dataclass(frozen=True)
class LooseCases:
    """All cases under `LOOSE`, sorted.

    Attributes:
        judged: number of cases that have a bound with some width, for comparison.
        explained: one group for each explanation that covers a case.
        unexplained: the others, together where their ids differ in numbers and formats only.
        unused: explanations that cover no case.
    """

    judged: int
    explained: Sequence[Group]
    unexplained: Sequence[Group]
    unused: Sequence[Explanation]


def loose_cases(documents: list[dict[str, Any]], explanations: Sequence[Explanation]) -> LooseCases:
    """Find the cases that every report passes with a tightness under `LOOSE`.

    A case that one backend comes near to has a bound that bites, however exact the others are.
    Rules that allow one answer only are as tight as can be and are left out.
    """
    largest = _largest(documents)
    loose = [Extreme(value, case) for case, value in largest.items() if value < LOOSE]
    by_explanation: dict[Explanation, list[Extreme]] = {}
    by_likeness: dict[str, list[Extreme]] = {}
    for each in loose:
        reason = next((e for e in explanations if e.covers(each.case, each.value)), None)
        if reason is not None:
            by_explanation.setdefault(reason, []).append(each)
        else:
            by_likeness.setdefault(_likeness(each.case), []).append(each)
    return LooseCases(
        len(largest),
        [
            _group(e.select, e.because, by_explanation[e])
            for e in explanations
            if e in by_explanation
        ],
        [_group(select, "", cases) for select, cases in by_likeness.items()],
        [each for each in explanations if each not in by_explanation],
    )


def _largest(documents: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The largest tightness of every case that was passed under a rule with some width."""
    largest: dict[str, float] = {}
    for document in documents:
        for case in document["cases"]:
            if "rule" not in case or document["rules"][case["rule"]]["exact"]:
                continue
            if case["verdict"] == Verdict.PASS:
                value = number(case["tightness"])
                largest[case["id"]] = max(value, largest.get(case["id"], 0.0))
    return largest


def _likeness(case_id: str) -> str:
    """A glob for the cases that are like this one but for numbers, format and block size."""
    op, _, _, dtype, name = address(case_id)
    return f"{op}/*/{dtype}/{re.sub('[0-9]+', '*', name)}"


def _group(select: str, because: str, cases: Sequence[Extreme]) -> Group:
    return Group(select, because, len(cases), max(cases, key=lambda each: each.value))
