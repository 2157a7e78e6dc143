"""Pages, badges and tables from reports."""

from kq_conformance.render.badge import render_badge
from kq_conformance.render.explanations import load_explanations
from kq_conformance.render.markdown import render_markdown
from kq_conformance.render.page import render_page
from kq_conformance.render.tightness import render_tightness

__all__ = [
    "load_explanations",
    "render_badge",
    "render_markdown",
    "render_page",
    "render_tightness",
]
