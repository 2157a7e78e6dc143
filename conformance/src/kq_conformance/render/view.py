"""What the Markdown and the HTML page show of one report, worked out once for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kq_conformance.render.failures import Failure, failures
from kq_conformance.render.headline import Headline, headline
from kq_conformance.render.matrix import Matrix, matrix
from kq_conformance.runner import Verdict

__all__ = ["View", "columns", "title", "view"]


@dataclass(frozen=True)
class View:
    """One report, ready to be shown.

    Attributes:
        name: backend, version and instruction set.
        headline: the outcome.
        summary: what identifies the run, by label.
        counts: number of cases by verdict, those that occurred.
        matrix: operation × format × dtype.
        failures: what failed and is not waived.
        waived: what failed and is waived.
        undeclared: ids of the cases that work without having been declared.
        waivers: as in the report.
        rules: as in the report.
        flags: what the backend says of itself.
        environment: the machine and what is installed on it, by label.
    """

    name: str
    headline: Headline
    summary: Mapping[str, str]
    counts: Mapping[str, int]
    matrix: Matrix
    failures: Sequence[Failure]
    waived: Sequence[Failure]
    undeclared: Sequence[str]
    waivers: Sequence[Mapping[str, Any]]
    rules: Mapping[str, Mapping[str, Any]]
    flags: Mapping[str, str]
    environment: Mapping[str, str]

    @property
    def failures_by_cell(self) -> Mapping[tuple[str, str, str], Sequence[Failure]]:
        """The failures that are not waived, by operation, format and dtype."""
        grouped: dict[tuple[str, str, str], list[Failure]] = {}
        for each in self.failures:
            grouped.setdefault(each.cell, []).append(each)
        return grouped


def _name(document: dict[str, Any], version: str = "") -> str:
    """Backend and, where it is told, instruction set."""
    backend = document["backend"]
    isa = backend["description"].get("isa")
    name = f"{backend['name']}{version}" + (f", {isa}" if isa else "")
    return " ".join(name.split())


def title(document: dict[str, Any]) -> str:
    """What was tested: "native 0.1.0, avx2"."""
    return _name(document, f" {document['backend']['version']}")


def columns(documents: Sequence[dict[str, Any]]) -> list[str]:
    """The heads of a table with one column for each report: "native, avx2".

    Raises:
        ValueError: if two reports would have the same.
    """
    names = [_name(document) for document in documents]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"only one report of each backend can be shown, got two of {name!r}")
    return names


def view(document: dict[str, Any]) -> View:
    """Work out what is shown of a report."""
    found = failures(document)
    return View(
        name=title(document),
        headline=headline(document),
        summary=_summary(document),
        counts={verdict: n for verdict, n in document["counts"].items() if n},
        matrix=matrix(document),
        failures=[each for each in found if not each.waived],
        waived=[each for each in found if each.waived],
        undeclared=[
            case["id"] for case in document["cases"] if case["verdict"] == Verdict.UNDER_CLAIM
        ],
        waivers=document["waivers"],
        rules=document["rules"],
        flags=document["backend"]["description"],
        environment={
            label: str(value) for label, value in document["environment"].items() if value != ""
        },
    )


def _summary(document: dict[str, Any]) -> dict[str, str]:
    run, environment = document["run"], document["environment"]
    cases = run["profile"] if run["select"] == "*" else f"{run['profile']}, {run['select']}"
    device = environment["accelerator"] if run["device"] != "cpu" else environment["processor"]
    return {
        "backend": document["backend"]["argument"],
        "profile": cases,
        "rules": run["rules"],
        "seed": str(run["seed"]),
        "device": f"{run['device']} ({device})" if device else run["device"],
        "suite": f"{document['suite']['name']} {document['suite']['version']}",
        "format": f"version {document['format_version']}",
        "date": run["date"],
        "time": f"{document['seconds']:.1f} s, workers: {run['workers']}",
    }
