"""`kq-conformance diff`: what changed from one report to another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kq_conformance.cli.app import FAILED, app, refuse
from kq_conformance.cli.documents import load_all
from kq_conformance.diff import Change, Comparison, compare
from kq_conformance.runner import Verdict

__all__ = ["diff"]

_WIDE = 240  # columns where the output is not a terminal: ids stay whole, for grep
_LISTED = 50  # added or gone cases that are listed; the rest are counted


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The earlier report.")],
    new: Annotated[Path, typer.Argument(help="The later one.")],
    factor: Annotated[
        float, typer.Option(help="Tell of tightness that grew by more than this factor.")
    ] = 2.0,
) -> None:
    """Compare two reports: outcome, verdicts, waivers, cases, tightness, and how the runs differed.

    Exit code 1: a case that passed is gone or does not pass any longer, a case newly fails, or the
    run as a whole passed (by a waiver, say) and does not any longer.
    """
    before, after = load_all([old, new])
    try:
        found = compare(before, after, factor)
    except ValueError as error:
        refuse(f"--{error}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    _show(console, found, factor)
    if found.worse or found.outcome.get("passed") == (True, False):
        raise typer.Exit(FAILED)


def _show(console: Console, found: Comparison, factor: float) -> None:
    """Print what there is to tell, the most important first, and a sentence at the end."""
    if found.conditions:
        table = Table("the runs differ in", "old", "new", title_justify="left")
        for name, (a, b) in found.conditions.items():
            table.add_row(*map(Text, (name, a, b)))
        console.print(table)
    if found.outcome:
        table = Table("the outcome differs in", "old", "new")
        for name, values in found.outcome.items():
            table.add_row(name, *("yes" if value else "no" for value in values))
        console.print(table)
    _show_changes(console, "verdict changed", found.verdicts)
    _show_changes(console, "waiver changed", found.waivers)
    _show_changes(console, "gone", found.gone)
    _show_changes(console, "added", found.added)
    if found.growths:
        table = Table("nearer to its bound", "old", "new", "factor")
        for growth in found.growths:
            figures = (f"{growth.old:.3g}", f"{growth.new:.3g}", f"{growth.new / growth.old:.3g}")
            table.add_row(*map(Text, (growth.case, *figures)))
        console.print(table)
        console.print(
            "Tightness is the worst error divided by its bound; at 1 the bound is used up. Listed"
            f" are the cases where it grew by more than a factor of {factor:g}, from more than 0.",
            soft_wrap=True,
        )
    if found.incomparable:
        console.print(f"Tightness is not compared: {found.incomparable}.", soft_wrap=True)
    console.print(_sentence(found), soft_wrap=True)


def _show_changes(console: Console, head: str, changes: Sequence[Change]) -> None:
    if not changes:
        return
    # Regressions are always listed; of the others as many as a person reads.
    told = [each for at, each in enumerate(changes) if each.worse or at < _LISTED]
    table = Table(head, "old", "new")
    for each in told:
        style = "bold red" if each.worse else ""
        table.add_row(Text(each.case, style=style), *_verdicts(each))
    console.print(table)
    if len(told) < len(changes):
        console.print(f"and {len(changes) - len(told)} more {head}", soft_wrap=True)


def _verdicts(change: Change) -> tuple[Text, Text]:
    return _verdict(change.old, change.waived[0]), _verdict(change.new, change.waived[1])


def _verdict(verdict: str, waived: bool) -> Text:
    if not verdict:
        return Text("none", style="dim")
    colors = {Verdict.PASS: "green", Verdict.UNSUPPORTED: "dim", Verdict.UNDER_CLAIM: "blue"}
    words = f"{verdict}, waived" if waived else verdict
    return Text(words, style=colors.get(Verdict(verdict), "yellow" if waived else "red"))


def _sentence(found: Comparison) -> str:
    others = len(found.verdicts) - sum(each.worse for each in found.verdicts)
    numbers = {
        "worse": len(found.worse),
        "other change of verdict" if others == 1 else "other changes of verdict": others,
        "change of waiver" if len(found.waivers) == 1 else "changes of waiver": len(found.waivers),
        "gone": len(found.gone),
        "added": len(found.added),
        "nearer to the bound": len(found.growths),
    }
    words = [f"{n} {what}" for what, n in numbers.items() if n]
    words += ["another outcome"] if found.outcome else []
    return ", ".join(words) or "no difference in results"
