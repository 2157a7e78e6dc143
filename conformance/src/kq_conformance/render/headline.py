"""What a report comes to, in a word and in a sentence."""

from dataclasses import dataclass
from typing import Any

from kq_conformance.runner import Verdict

__all__ = ["Headline", "bad_cases", "headline"]


@dataclass(frozen=True)
class Headline:
    """The outcome of a run.

    Attributes:
        state: "pass", "waived" (passed thanks to waivers), "partial" (passed, but certifies
            nothing) or "fail"; decides the color.
        badge: a few words, for the badge.
        title: a few words, for the page.
        sentence: the same with its numbers.
    """

    state: str
    badge: str
    title: str
    sentence: str


def bad_cases(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases that keep a run from passing: neither acceptable nor waived."""
    return [
        case
        for case in document["cases"]
        if not Verdict(case["verdict"]).acceptable and "waived" not in case
    ]


def headline(document: dict[str, Any]) -> Headline:
    """What a report comes to."""
    run, counts = document["run"], document["counts"]
    bad = len(bad_cases(document))
    waived = sum(cell["waived"] for cell in document["coverage"])
    silent = counts[Verdict.UNSUPPORTED] + counts[Verdict.UNDER_CLAIM]
    declared = sum(counts.values()) - silent
    numbers = f"{counts[Verdict.PASS]:,} of {declared:,} declared cases passed"
    numbers += f", {waived:,} waived" if waived else ""
    numbers += f"; {silent:,} not declared" if silent else ""
    rules = "" if run["rules"] == "exact" else f", {run['rules']} rules"
    if bad:
        return Headline("fail", f"failed {bad:,}", "Failed", f"{bad:,} failed: {numbers}")
    if not document["passed"]:
        return Headline("fail", "nothing passed", "Failed", f"No case passed: {numbers}")
    if not document["certifies"]:
        # The words before the colon say why: a small profile, or a part of one.
        part = run["profile"] if run["select"] == "*" else "selection"
        return Headline(
            "partial",
            f"{part}: does not certify",
            "Passed, not certified",
            f"{numbers}; a {part} run does not certify",
        )
    if document["waived"]:
        title = "Certified with waivers"
        return Headline("waived", f"passed, {waived:,} waived{rules}", title, numbers)
    return Headline("pass", f"{run['profile']} passed{rules}", "Certified", numbers)
