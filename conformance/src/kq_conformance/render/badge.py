"""The badge for a README: "kq conformance | core passed"."""

from typing import Any

from kq_conformance.render.headline import Headline, headline
from kq_conformance.render.templating import TEMPLATES

__all__ = ["render_badge", "text_width"]

_LABEL = "kq conformance"
_PADDING = 6  # pixels left and right of each text
_COLORS = {"pass": "#2a7f43", "waived": "#946800", "partial": "#5c6570", "fail": "#b3261e"}
_WORST_FIRST = ("fail", "partial", "waived", "pass")

# Advance widths of DejaVu Sans (which are Verdana's, nearly) at 11 pixels, in tenths of a pixel.
# The texts are set to their sum with `textLength`, so that they fit in any other font, too.
_WIDTHS = {
    31: "ijl",
    35: " ,",
    37: ":",
    39: "f",
    40: "-",
    43: "t",
    45: "r",
    57: "s",
    59: "cz",
    65: "kvxy",
    68: "aeo",
    70: "bdghnpqu0123456789",
    90: "w",
    107: "m",
}
_ADVANCE = {letter: tenths for tenths, letters in _WIDTHS.items() for letter in letters}


def text_width(text: str) -> int:
    """The width of a text at 11 pixels, rounded up; other letters than small ones count as wide."""
    return -(-sum(_ADVANCE.get(letter, 90) for letter in text) // 10)


def _worst(documents: list[dict[str, Any]]) -> Headline:
    """What several reports come to together: the least good one speaks for all."""
    lines = [headline(each) for each in documents]
    return min(lines, key=lambda line: _WORST_FIRST.index(line.state))


def render_badge(documents: list[dict[str, Any]]) -> str:
    """An SVG image of the outcome of one report, or of the worst of several."""
    outcome = _worst(documents)
    left, right = (text_width(text) + 2 * _PADDING for text in (_LABEL, outcome.badge))
    return TEMPLATES.get_template("badge.svg.j2").render(
        label=_LABEL,
        message=outcome.badge,
        color=_COLORS[outcome.state],
        left=left,
        right=right,
        padding=_PADDING,
    )
