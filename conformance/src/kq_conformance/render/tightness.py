"""The page on tightness: how near each backend comes to its bounds, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kq_conformance.render.explanations import LOOSE, Explanation
from kq_conformance.render.loose import LooseCases, loose_cases
from kq_conformance.render.matrix import ABSENT, Cell, Matrix, matrix
from kq_conformance.render.templating import TEMPLATES, figure
from kq_conformance.render.view import columns

__all__ = ["TightnessPage", "render_tightness"]


@dataclass(frozen=True)
class TightnessPage:
    """The page, and what its writer must know.

    Attributes:
        text: Markdown.
        loose: the cases that are far from their bounds.
    """

    text: str
    loose: LooseCases


@dataclass(frozen=True)
class Row:
    """A line of an operation's table.

    Attributes:
        formats: the formats that behave alike.
        dtype: "all" if all dtypes do.
        figures: one text for each backend.
    """

    formats: str
    dtype: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Nearest:
    """A case that comes nearest to its bound in some cell of some backend.

    Attributes:
        case: its id.
        backends: the tightness, and the backends that had it.
    """

    case: str
    backends: str


@dataclass(frozen=True)
class Section:
    """All about one operation."""

    op: str
    rows: Sequence[Row]
    nearest: Sequence[Nearest]


def render_tightness(
    documents: list[dict[str, Any]], explanations: Sequence[Explanation]
) -> TightnessPage:
    """Compare the tightness of backends that were asked by the same rules.

    Raises:
        ValueError: if two reports are of the same backend, or of different rules.
    """
    rules = sorted({document["run"]["rules"] for document in documents})
    if len(rules) > 1:
        raise ValueError(f"reports must have the same rules to be compared, got {rules}")
    names = columns(documents)
    matrices = [matrix(each) for each in documents]
    loose = loose_cases(documents, explanations)
    ops = dict.fromkeys(op for each in matrices for op in each.rows)
    text = TEMPLATES.get_template("tightness.md.j2").render(
        reports=list(zip(names, documents, strict=True)),
        names=names,
        sections=[_section(op, names, matrices) for op in ops],
        loose=loose,
        limit=f"{LOOSE:g}",
    )
    return TightnessPage(text, loose)


def _section(op: str, names: Sequence[str], matrices: Sequence[Matrix]) -> Section:
    formats = dict.fromkeys(f for each in matrices for f in each.rows.get(op, {}))
    dtypes = dict.fromkeys(dtype for each in matrices for dtype in each.dtypes)
    # Formats with the same figures throughout are told in one line; mostly the exact ones.
    alike: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    nearest: dict[str, dict[str, list[str]]] = {}  # backends by case and figure
    for format_ in formats:
        lines = []
        for dtype in dtypes:
            cells = [each.rows.get(op, {}).get(format_, {}).get(dtype) for each in matrices]
            lines.append(tuple(_figures(cell) for cell in cells))
            for name, cell in zip(names, cells, strict=True):
                if cell is not None and cell.tightness is not None and not cell.all_exact:
                    told = nearest.setdefault(cell.tightness.case, {})
                    told.setdefault(figure(cell.tightness.value), []).append(name)
        alike.setdefault(tuple(lines), []).append(format_)
    rows = [
        row
        for lines, group in alike.items()
        for row in _rows(", ".join(group), tuple(dtypes), lines)
    ]
    return Section(op, rows, [_nearest(case, told) for case, told in nearest.items()])


def _nearest(case: str, told: Mapping[str, Sequence[str]]) -> Nearest:
    return Nearest(case, "; ".join(f"{value} ({'; '.join(of)})" for value, of in told.items()))


def _rows(formats: str, dtypes: Sequence[str], lines: Sequence[tuple[str, ...]]) -> list[Row]:
    if len(set(lines)) == 1:
        return [Row(formats, "all", lines[0])]
    return [Row(formats, dtype, line) for dtype, line in zip(dtypes, lines, strict=True)]


def _figures(cell: Cell | None) -> str:
    """Tightness and statistical figure of one cell."""
    if cell is None or not cell.asked:
        return ABSENT
    if cell.failed:
        return "fails"
    if cell.tightness is None:
        return "not judged"
    if cell.all_exact:
        return "exact"
    told = figure(cell.tightness.value)
    return told if cell.statistical is None else f"{told}, √n {figure(cell.statistical.value)}"
