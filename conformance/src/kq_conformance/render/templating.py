"""The templates beside this file: HTML and SVG are escaped, Markdown has filters of its own."""

import math
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["TEMPLATES", "figure", "in_table", "plain"]


def figure(value: float) -> str:
    """A tightness in three digits: "0", "0.412", "0.0021", "3.2e-05", "∞"."""
    if math.isinf(value):
        return "∞"
    return "NaN" if math.isnan(value) else f"{value:.3g}"


def _code(text: str) -> str:
    """A code span of Markdown, fenced by more backticks than the text has in a row."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def in_table(text: str) -> str:
    """Text that may stand in a cell of a Markdown table, which a bar or a new line would end."""
    return " ".join(str(text).split()).replace("|", r"\|")


def plain(text: str) -> str:
    """Text of somebody else's, with what Markdown would take for markup escaped."""
    return re.sub(r"([\\`*_<>\[\]#])", r"\\\1", " ".join(text.split()))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kq_conformance.render"),
        autoescape=lambda name: name is not None and not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(code=_code, in_table=in_table, plain=plain, figure=figure)
    return environment


TEMPLATES = _environment()
