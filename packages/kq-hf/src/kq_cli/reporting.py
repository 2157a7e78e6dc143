"""How the commands speak: results, progress, warnings and errors."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

results = Console(highlight=False)
"""Standard output: what the user asked for."""

notes = Console(stderr=True, highlight=False)
"""Standard error: progress and remarks."""


class OneLineErrors(TyperGroup):
    """A group of commands that answers bad input with one line and exit code 2.

    Bad input is a wrong argument, and a ValueError, OSError or ImportError of the library: a wrong
    file, a missing package. Set KQ_TRACEBACK=1 to see where it came from. Other exceptions
    are mistakes of kq and keep their traceback.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command; with `standalone_mode`, ends the process with its exit code."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            code = _fail(_message(error), 2, error)
        except (ValueError, OSError, ImportError) as error:
            code = _fail(str(error) or type(error).__name__, 2, error)
        except ArithmeticError as error:  # a training run that diverged
            code = _fail(str(error), 1, error)
        if standalone_mode:
            sys.exit(code or 0)
        return code


def _message(error: typer.TyperException) -> str:
    """The text of an error of the argument parser."""
    format_message = getattr(error, "format_message", None)
    return format_message() if format_message else str(error)


def _fail(message: str, code: int, error: Exception) -> int:
    if os.environ.get("KQ_TRACEBACK"):
        raise error
    notes.print(
        "kq: error: " + " ".join(message.split()), style="red", markup=False, soft_wrap=True
    )
    return code


def _print_line(message: str, style: str) -> None:
    notes.print(" ".join(message.split()), style=style, markup=False, soft_wrap=True)


def one_line_warnings() -> None:
    """Makes Python's warnings appear as one line without the place in the source."""

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        if issubclass(category, UserWarning | RuntimeWarning):
            _print_line(f"kq: warning: {message}", "yellow")

    warnings.showwarning = show  # type: ignore[assignment]  # the place is not looked at


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on standard error, if that is a terminal.

    Args:
        description: What is going on.
        total: Number of steps.

    Yields:
        A function to call with the number of steps done and a remark.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bar:
        task = bar.add_task(description, total=total, remark="")
        yield lambda done, remark: bar.update(task, completed=done, remark=remark)


@contextmanager
def activity(description: str) -> Iterator[None]:
    """A moving sign on standard error, if that is a terminal, for work of unknown length."""
    with notes.status(description):
        yield


def print_figures(title: str, figures: dict[str, str]) -> None:
    """Prints named figures as a table on standard output."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in figures.items():
        table.add_row(name, value)
    results.print(table)


def write_json(file: Path | None, figures: dict[str, Any]) -> None:
    """Writes results for machines, if a file was asked for."""
    if file is None:
        return
    from kq_hf.files import replaced_file

    with replaced_file(file) as unfinished:
        unfinished.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def size(nbytes: int) -> str:
    """A number of bytes for people."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
