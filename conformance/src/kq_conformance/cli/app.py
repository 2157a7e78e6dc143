"""The command `kq-conformance`, to which each module beside this one adds one subcommand.

Exit code 0: what was asked for holds. 1: it does not (a case failed, a mutant survived, a report
got worse, a table is stale). 2: the command could not be carried out as written.
"""

from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from kq_conformance.files import try_target, write_text

__all__ = ["FAILED", "UNUSABLE", "app", "check_target", "refuse", "write_or_refuse"]

FAILED, UNUSABLE = 1, 2

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with the command, and leave with exit code 2."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {message}", markup=False)
    raise typer.Exit(UNUSABLE)


def check_target(option: str, path: Path | None) -> None:
    """Refuse a file that cannot be written, before work is done for it."""
    if path is None:
        return
    try:
        if path.is_dir() or not path.parent.is_dir():
            refuse(f"{option} must name a file in an existing folder, got {str(path)!r}")
        try_target(path)
    except OSError as error:
        refuse(f"{option}: {path} cannot be written: {error.strerror or error}")


def write_or_refuse(path: Path, text: str) -> None:
    """Write a file whole; one that cannot be written ends the command."""
    try:
        write_text(path, text)
    except OSError as error:
        refuse(f"{path} cannot be written: {error.strerror or error}")
