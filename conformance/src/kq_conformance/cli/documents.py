"""Reports as arguments of a command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kq_conformance.cli.app import refuse
from kq_conformance.report import load

__all__ = ["Reports", "load_all"]

Reports = Annotated[
    list[Path], typer.Argument(metavar="REPORT", help="Reports that `run --json` wrote.")
]


def load_all(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read reports; a file that is none ends the command."""
    try:
        return [load(path) for path in paths]
    except ValueError as error:
        refuse(str(error))
