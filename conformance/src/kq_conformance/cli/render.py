"""`kq-conformance render`: pages, badges and tables from reports."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kq_conformance import render as pages
from kq_conformance.cli.app import FAILED, app, refuse, write_or_refuse
from kq_conformance.cli.documents import Reports, load_all

__all__ = ["render"]

_RENDERERS = {
    "markdown": pages.render_markdown,
    "html": pages.render_page,
    "svg": pages.render_badge,
}
_FORMATS = (*_RENDERERS, "tightness")
_ENDINGS = {".md": "markdown", ".html": "html", ".htm": "html", ".svg": "svg"}


def _format(format_: str | None, out: Path | None) -> str:
    """The format that was asked for, by name or by the ending of the file."""
    if format_ is None:
        format_ = "markdown" if out is None else _ENDINGS.get(out.suffix.lower())
        if format_ is None:
            endings = ", ".join(_ENDINGS)
            refuse(f"--out must end in one of {endings}, or --format be given, got {str(out)!r}")
    if format_ not in _FORMATS:
        refuse(f"--format must be one of {', '.join(_FORMATS)}, got {format_!r}")
    return format_


def _tightness(documents: list[dict[str, Any]]) -> tuple[str, int]:
    """The page on tightness, and how many cases on it wait for an explanation."""
    try:
        page = pages.render_tightness(documents, pages.load_explanations())
    except ValueError as error:
        refuse(str(error))
    for each in page.loose.unused:
        _say(f"note: the explanation for {each.select!r} covers no case of these reports")
    return page.text, sum(group.count for group in page.loose.unexplained)


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)


@app.command()
def render(
    reports: Reports,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="markdown, html, svg (a badge) or tightness (a Markdown page that compares"
            " backends); by default what the ending of --out says, else markdown.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write this file; by default the page is printed.")
    ] = None,
) -> None:
    """Make a page or a badge from reports.

    Exit code 1: --format tightness, and cases far from their bounds are not explained.
    """
    chosen = _format(format_, out)
    documents = load_all(reports)
    unexplained = 0
    if chosen == "tightness":
        text, unexplained = _tightness(documents)
    else:
        text = _RENDERERS[chosen](documents)
    if out is None:
        sys.stdout.write(text)
    else:
        write_or_refuse(out, text)
    if unexplained:
        _say(f"{unexplained} cases are far from their bounds, and nothing explains why")
        raise typer.Exit(FAILED)
