"""The HTML page: one file that needs no other, no script and no network."""

import math
from typing import Any

from kq_conformance.render.templating import TEMPLATES
from kq_conformance.render.view import view

__all__ = ["render_page"]

_EXPANDED = 20  # failures that are open when the page is; the others open by a click


def _gauge(tightness: float) -> float:
    """The share of the bound that is used up, in percent; full at the bound and beyond it."""
    return round(100 * min(tightness, 1.0), 1) if math.isfinite(tightness) else 100.0


def render_page(documents: list[dict[str, Any]]) -> str:
    """One page for one report or several, with a table of contents if there are several."""
    return TEMPLATES.get_template("report.html.j2").render(
        views=[view(each) for each in documents], gauge=_gauge, expanded=_EXPANDED
    )
