"""The command: measure, print the tables, write the report."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import rich.table
import typer
from rich.console import Console

from benchmarks import limited, report
from benchmarks.isas import chosen_isas
from benchmarks.machine import describe
from benchmarks.peers.kq import FAMILY
from benchmarks.plots import plots
from benchmarks.session import measure

RESULTS = Path(__file__).parent / "results"
"""Where full runs go; they are committed."""

UNFINISHED = Path("build") / "benchmarks"
"""Where quick and partial runs go; they are not."""

_WIDTH = 160  # of tables that go to a file or a pipe
results = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
notes = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False)


def _target(given: Path | None, folder: Path, name: str) -> Path:
    path = given or folder / name
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file to write to")
    if given and not path.parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist")
    return path


def write(path: Path, text: str) -> None:
    """Writes a file that appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, "utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _print(table: report.Table) -> None:
    shown = rich.table.Table(*table.columns, title=table.title, title_justify="left")
    for line in table.lines:
        shown.add_row(*line)
    results.print(shown)


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help="Small operands: do all contenders work?")] = False,
    model: Annotated[
        bool, typer.Option(help="Also a language model, which is downloaded: minutes.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to put figures.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Where to put the report.")] = None,
    isa: Annotated[
        list[str] | None, typer.Option(help="An instruction set of kq; may be repeated.")
    ] = None,
    limit_peers: Annotated[
        str, typer.Option(help="An instruction set that torch and bitsandbytes are held to, too.")
    ] = "",
    only: Annotated[str, typer.Option(help="Rows to measure, as pytest's -k selects.")] = "",
) -> int:
    """Measures kq beside dense torch and bitsandbytes, in one run, in interleaved rounds."""
    if limit_peers:
        limited.restart(limit_peers, sys.argv[1:])
    isas = chosen_isas(isa or ())
    facts = describe()
    name = f"cpu-{isas[0]}-{facts['date']}"
    if limit_peers:
        name = f"cpu-{limit_peers}-for-all-{facts['date']}"
    folder = RESULTS
    if quick or only:
        name, folder = f"{'quick' if quick else 'partial'}-{name}", UNFINISHED
    json_path = _target(json_file, folder, f"{name}.json")
    markdown_path = _target(markdown, folder, f"{name}.md")

    records, failures = measure(isas, quick=quick, model=model, only=only, console=notes)
    tables = [*report.comparisons(records, FAMILY), report.limits(records)]
    remarks = report.remarks(records, steadiness=not quick)
    title = "kq beside dense torch and bitsandbytes"
    if quick:
        title += " (quick run on small operands: no figures)"
    results.print(title, style="bold", markup=False)
    for table in tables:
        _print(table)
    for note in remarks:
        results.print(note.title + ":", *note.remarks, sep="\n  ", markup=False)

    document = {"title": title, "machine": facts, "rows": [each.to_json() for each in records]}
    write(json_path, json.dumps(document, indent=1) + "\n")
    pictures = {}
    for plot in plots(records, FAMILY):
        path = markdown_path.with_name(f"{markdown_path.stem}-{plot.name}.svg")
        write(path, plot.svg())
        pictures[path.name] = plot.caption
    write(markdown_path, report.markdown(title, facts, tables, remarks, pictures))
    written = ", ".join(str(markdown_path.with_name(name)) for name in pictures)
    written = f" with {written}" if written else ""
    results.print(f"wrote {json_path} and {markdown_path}{written}", markup=False)
    for failure in failures:
        notes.print(failure, style="red", markup=False)
    return 1 if failures else 0
