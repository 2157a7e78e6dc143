"""The support table of a README, made from reports: who passes what.

It holds only what is the same on every machine, so that a machine that lacks an instruction set can
still check the columns that it has a report for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kq_conformance.render.matrix import ABSENT, Cell, matrix
from kq_conformance.render.templating import in_table, plain
from kq_conformance.render.view import columns

__all__ = ["BEGIN", "END", "SupportTable", "differences", "in_text", "support_table", "with_table"]

BEGIN = "<!-- kq-conformance support: begin -->"
END = "<!-- kq-conformance support: end -->"

_FAILS = "fails"
_UNKNOWN = "?"
_WAIVED, _PARTLY = "†", "‡"
_NOTES = {
    ABSENT: "not declared",
    _WAIVED: "but for cases that are waived",
    _PARTLY: "some block sizes or options only",
    _UNKNOWN: "no report of it yet",
}

_BAR = re.compile(r"(?<!\\)\|")  # between two cells
_ESCAPED = re.compile(r"\\([^\w\s]|_)")  # in a head

Key = tuple[str, str]  # operation and format


@dataclass(frozen=True)
class SupportTable:
    """Operation × format, and a column for each backend with its instruction set.

    Attributes:
        keys: the rows, in order.
        columns: by name, the cell of each row; a row that is not in a column is unknown there.
    """

    keys: tuple[Key, ...]
    columns: Mapping[str, Mapping[Key, str]]

    def text(self, column: str, key: Key) -> str:
        """What a cell says."""
        return self.columns[column].get(key, _UNKNOWN)

    def to_markdown(self) -> str:
        """The table with notes on the marks that occur in it."""
        names = list(self.columns)
        heads = [in_table(plain(name)) for name in names]
        lines = [_line(["operation", "format", *heads]), "|" + "---|" * (len(names) + 2)]
        for op, format_ in self.keys:
            cells = [self.text(name, (op, format_)) for name in names]
            lines.append(_line([f"`{op}`", format_, *cells]))
        shown = "".join(self.text(name, key) for name in names for key in self.keys)
        notes = [f"{mark} {note}" for mark, note in _NOTES.items() if mark in shown]
        return "\n".join(lines + (["", "; ".join(notes) + "."] if notes else [])) + "\n"

    def updated(self, newer: "SupportTable") -> "SupportTable":
        """This table with the columns of a newer one, and its own where the newer one has none.

        Rows that the newer one does not have are dropped.
        """
        return SupportTable(newer.keys, {**self.columns, **newer.columns})


def support_table(documents: list[dict[str, Any]]) -> SupportTable:
    """Make the table.

    Raises:
        ValueError: if a report holds a part of the cases only, or two are of the same backend.
    """
    names = columns(documents)
    for name, document in zip(names, documents, strict=True):
        run = document["run"]
        if run["profile"] == "quick" or run["select"] != "*":
            asked = f"profile {run['profile']}, select {run['select']}"
            raise ValueError(f"the report of {name!r} must be of all of core or full, got {asked}")
    made = [matrix(document).rows for document in documents]
    keys = dict.fromkeys((op, format_) for rows in made for op in rows for format_ in rows[op])
    return SupportTable(
        tuple(keys),
        {
            name: {(op, format_): _cell(rows[op][format_]) for op in rows for format_ in rows[op]}
            for name, rows in zip(names, made, strict=True)
        },
    )


def _cell(by_dtype: Mapping[str, Cell]) -> str:
    """What passes, by dtype; shortened where all dtypes are alike."""
    said: dict[str, list[str]] = {}
    for dtype, cell in by_dtype.items():
        said.setdefault(_word(cell), []).append(dtype)
    if len(said) == 1:
        return next(iter(said)).replace(": {}", "").replace("{}", "all")
    said.pop(ABSENT, None)
    words = sorted(said, key=lambda word: word.startswith(_FAILS))  # what passes comes first
    return "; ".join(word.format(", ".join(said[word])) for word in words)


def _word(cell: Cell) -> str:
    """One cell of the matrix; `{}` stands for the dtypes that it is true of."""
    if not cell.asked:
        return ABSENT
    if cell.failed or not cell.passed:
        return f"{_FAILS}: {{}}"
    marks = (_WAIVED if cell.waived else "") + (_PARTLY if cell.silent else "")
    return f"{{}} {marks}" if marks else "{}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _split(text: str) -> tuple[str, str, str]:
    """The text up to the first marker, between the two, and from the second one on.

    Raises:
        ValueError: if each marker does not stand there once, in this order.
    """
    before, found, rest = text.partition(BEGIN)
    middle, also_found, after = rest.partition(END)
    if not found or not also_found or BEGIN in middle + after or END in before + after:
        raise ValueError(f"must hold the lines {BEGIN!r} and {END!r} once, in this order")
    return before + BEGIN, middle, END + after


def in_text(text: str) -> SupportTable:
    """Read the table between the markers; empty if there is none yet.

    Raises:
        ValueError: if the markers are not there.
    """
    rows = [
        [cell.strip() for cell in _BAR.split(line.strip().strip("|"))]
        for line in _split(text)[1].splitlines()
        if line.startswith("|")
    ]
    if len(rows) < 2:
        return SupportTable((), {})
    heads, _, *body = rows
    keys = [(row[0].strip("`"), row[1]) for row in body]
    found: dict[str, dict[Key, str]] = {
        _ESCAPED.sub(r"\1", head): {
            key: row[at] for key, row in zip(keys, body, strict=True) if row[at] != _UNKNOWN
        }
        for at, head in enumerate(heads[2:], 2)
    }
    return SupportTable(tuple(keys), found)


def with_table(text: str, table: SupportTable) -> str:
    """The text with another table between the markers.

    Raises:
        ValueError: if the markers are not there.
    """
    before, _, after = _split(text)
    return f"{before}\n\n{table.to_markdown()}\n{after}"


def differences(shown: SupportTable, made: SupportTable) -> list[str]:
    """What a text says that the reports do not, in the columns that there are reports for."""
    found = [f"column {name!r} is missing" for name in made.columns if name not in shown.columns]
    for name in made.columns:
        if name in shown.columns:
            for key in made.columns[name]:
                says, should = shown.text(name, key), made.text(name, key)
                if says != should:
                    found.append(f"{name}: {key[0]} {key[1]} says {says!r} for {should!r}")
    return found
