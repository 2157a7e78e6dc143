"""`kq-conformance support`: the support table of a README."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kq_conformance import support as tables
from kq_conformance.cli.app import FAILED, app, refuse, write_or_refuse
from kq_conformance.cli.documents import Reports, load_all

__all__ = ["support"]

_TOLD = 3  # differences that the complaint names


@app.command()
def support(
    reports: Reports,
    update: Annotated[
        Path | None, typer.Option(help="Write the table between the markers of this file.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Compare with the table between the markers of this file.")
    ] = None,
) -> None:
    """Print, write or check the table of what passes: operation and format by backend.

    Only the columns of the reports given are checked or rewritten; the columns of other backends
    stay. To drop one, empty the space between the markers first. Exit code 1: the table is stale.
    """
    if update is not None and check is not None:
        refuse("--update and --check cannot be given together")
    documents = load_all(reports)
    try:
        made = tables.support_table(documents)
    except ValueError as error:
        refuse(str(error))
    target = update or check
    if target is None:
        sys.stdout.write(made.to_markdown())
        return
    try:
        text = target.read_text(encoding="utf-8")
        shown = tables.in_text(text)
    except OSError as error:
        refuse(f"{target} cannot be read: {error.strerror or error}")
    except ValueError as error:
        refuse(f"{target} {error}")
    if update is not None:
        write_or_refuse(target, tables.with_table(text, shown.updated(made)))
    elif stale := tables.differences(shown, made):
        mend = shlex.join(
            ["kq-conformance", "support", *map(str, reports), "--update", str(target)]
        )
        more = f"; and {len(stale) - _TOLD} more" if len(stale) > _TOLD else ""
        told = f"{target}: the table is stale ({'; '.join(stale[:_TOLD])}{more}); mend it: {mend}"
        Console(stderr=True, soft_wrap=True, highlight=False).print(told, markup=False)
        raise typer.Exit(FAILED)
