"""`kq-conformance mutants`: proof that the suite bites."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from kq_conformance.cli.app import FAILED, app, check_target, refuse, write_or_refuse
from kq_conformance.mutants import MUTANTS, Mutant
from kq_conformance.mutants.document import to_markdown
from kq_conformance.mutants.trial import Outcome, try_mutants

__all__ = ["mutants"]


@app.command()
def mutants(
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, help="Processes that answer cases.")
    ] = 1,
    select_: Annotated[str, typer.Option("--select", help="Glob over names of mutants.")] = "*",
    markdown: Annotated[
        Path | None, typer.Option(help="Write the table of all mutants and cases to this file.")
    ] = None,
) -> None:
    """Run deliberately broken backends; exit code 1 if one survives the case that must kill it.

    Each case must also pass on the same backend without the mistake. The quick profile is run on
    each mutant to count what else kills it.
    """
    if markdown is not None and select_ != "*":
        refuse("--select and --markdown cannot be given together: the table has every mutant")
    chosen = [each for each in MUTANTS if fnmatchcase(each.name, select_)]
    if not chosen:
        refuse(f"--select {select_!r} matches no mutant")
    check_target("--markdown", markdown)
    outcomes = _run(chosen, workers)
    console = Console(highlight=False)
    console.print(_table(outcomes))
    bad = [each for each in outcomes if each.complaint]
    for outcome in bad:
        console.print(f"{outcome.mutant.name}: {outcome.complaint}", markup=False, soft_wrap=True)
    console.print(f"{len(outcomes) - len(bad)} of {len(outcomes)} mutants died as they should")
    if markdown is not None:
        write_or_refuse(markdown, to_markdown(outcomes))
    if bad:
        raise typer.Exit(FAILED)


def _run(chosen: Sequence[Mutant], workers: int) -> list[Outcome]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("cases", total=None)
        return try_mutants(
            chosen,
            workers,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _table(outcomes: Sequence[Outcome]) -> Table:
    """Two lines in a row, so that it fits a narrow terminal."""
    table = Table(
        Column("mutant, ledger\nmistake", ratio=1),
        Column("killer\nverdict; other cases of quick that kill it", overflow="fold", ratio=1),
        show_lines=True,
        expand=True,
    )
    for each in outcomes:
        ledger = f", {each.mutant.ledger}" if each.mutant.ledger else ""
        table.add_row(
            Text(f"{each.mutant.name}{ledger}\n{each.mutant.mistake}"),
            Text(f"{each.mutant.killer}\n{each.finding.verdict}; {len(each.others)}"),
        )
    return table
