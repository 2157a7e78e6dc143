"""The Markdown page: for a terminal, a pull request, a job's summary."""

from typing import Any

from kq_conformance.render.matrix import ABSENT, Cell
from kq_conformance.render.templating import TEMPLATES
from kq_conformance.render.view import view

__all__ = ["render_markdown"]

_EXPLAINED = 20  # failures that are shown with all their figures; the table has all


def _word(cell: Cell) -> str:
    """A cell of the matrix in a few letters."""
    counted = f"{cell.passed}/{cell.asked}"
    return {
        "pass": f"✓ {counted}",
        "fail": f"✗ {counted}",
        "waived": f"! {counted}",
        "under-claim": "+",
        "unsupported": ABSENT,
    }[cell.state]


def _verdicts(cell: Cell) -> str:
    """The verdicts of a cell that occurred, with their numbers."""
    counted = [f"{n} {verdict}" for verdict, n in cell.counts.items()]
    return ", ".join(counted + ([f"{cell.waived} waived"] if cell.waived else []))


def render_markdown(documents: list[dict[str, Any]]) -> str:
    """One page for one report or several."""
    return TEMPLATES.get_template("report.md.j2").render(
        views=[view(each) for each in documents],
        word=_word,
        verdicts=_verdicts,
        explained=_EXPLAINED,
    )
