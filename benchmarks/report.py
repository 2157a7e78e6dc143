"""Tables for people, from records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

from benchmarks.results import Record, Result, speedup

UNSTEADY = 0.1
"""Spread from which a figure is listed as unsteady."""

_UNITS = {"compute": "GFLOP/s", "int8 compute": "GOP/s"}


class Table(NamedTuple):
    """A heading, the names of the columns, and the lines below them."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


class Note(NamedTuple):
    """A heading and remarks under it."""

    title: str
    remarks: Sequence[str]


def duration(seconds: float) -> str:
    """Three digits and a unit: "1.23 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-6:#.3g} µs".replace(". ", " ")


def unique(names: Iterable[str]) -> list[str]:
    """Each name once, in the order of their first appearance."""
    return list(dict.fromkeys(names))


def _own(result: Result) -> str:
    return duration(result.seconds) + ("" if result.correct else " ✗")


def _peer(ours: Result, theirs: Result | None) -> str:
    if theirs is None:
        return "-"
    path = f", {theirs.path}" if theirs.path else ""
    mark = "" if theirs.correct else " ✗"
    return f"{duration(theirs.seconds)} ({speedup(ours, theirs):.2f}x{path}){mark}"


def comparison(subject: str, family: str, peers: Sequence[str], records: list[Record]) -> Table:
    """One subject, one family of ours against all peers."""
    lines = []
    for record in records:
        ours = record.best(family)
        if ours is not None:
            limit = f"{ours.fraction:.0%} of {ours.bound}" if ours.bound else "-"
            others = [_peer(ours, record.best(peer)) for peer in peers]
            lines.append([record.work, _own(ours), limit, *others])
    return Table(subject, ["work", family, "of the limit", *peers], lines)


def comparisons(records: list[Record], prefix: str) -> list[Table]:
    """Every subject, for every family whose name begins with `prefix`, against all others."""
    tables = []
    for family in unique(each.family for record in records for each in record.results):
        if not family.startswith(prefix):
            continue
        for subject in unique(record.subject for record in records):
            chosen = [record for record in records if record.subject == subject]
            peers = unique(
                each.family
                for record in chosen
                for each in record.results
                if not each.family.startswith(prefix)
            )
            tables.append(comparison(f"{subject}: {family}", family, peers, chosen))
    return tables


def limits(records: list[Record]) -> Table:
    """What the machine could do, over all rows: probes run beside every row's contenders."""
    lines = []
    for limit in unique(name for record in records for name in record.limits):
        rates = [record.limits[limit] / 1e9 for record in records if limit in record.limits]
        unit = _UNITS.get(limit, "GB/s")
        shown = (min(rates), median(rates), max(rates))
        lines.append([limit, *(f"{rate:.3g} {unit}" for rate in shown)])
    return Table("Limits of the machine", ["limit", "lowest", "median", "highest"], lines)


def remarks(records: list[Record], *, steadiness: bool) -> list[Note]:
    """What to know before believing a figure.

    Args:
        records: measured rows.
        steadiness: whether to list figures that vary much from round to round.
    """
    wrong, unsteady = [], []
    for record in records:
        for each in record.results:
            name = f"{each.family} {each.path}".strip()
            place = f"{record.subject}, {record.work}: {name}"
            if not each.correct:
                wrong.append(f"{place}: {each.detail}")
            if steadiness and each.spread > UNSTEADY:
                unsteady.append(f"{place}: {each.spread:.0%}")
    notes = [
        Note("Wrong results (✗)", wrong),
        Note(
            f"Unsteady figures (quartiles more than {UNSTEADY:.0%} of the median apart)", unsteady
        ),
    ]
    return [note for note in notes if note.remarks]


def markdown(
    title: str,
    facts: dict[str, str],
    tables: Sequence[Table],
    notes: Sequence[Note],
    pictures: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The report as a file.

    Args:
        title: its first line.
        facts: the machine and the versions.
        tables: figures.
        notes: remarks.
        pictures: file names of the plots, relative to the report, and their captions.
    """
    parts = [f"# {title}", _pipes(Table("", ["", ""], [list(fact) for fact in facts.items()]))]
    parts += [f"![{caption}]({file})\n\n{caption}." for file, caption in pictures.items()]
    for table in tables:
        parts += [f"## {table.title}", _pipes(table)]
    for note in notes:
        parts += [f"## {note.title}", "\n".join(f"- {remark}" for remark in note.remarks)]
    return "\n\n".join(parts) + "\n"


def _pipes(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
