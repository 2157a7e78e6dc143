"""`kq export`."""

from pathlib import Path
from typing import Annotated

import typer

from kq_cli.models import quiet_transformers
from kq_cli.reporting import results


def export(
    source: Annotated[str, typer.Argument(metavar="SRC", help="int8 model of kq.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
) -> None:
    """Writes an int8 model as a checkpoint that bitsandbytes loads, with the same numbers."""
    if destination.exists():
        raise ValueError(f"{destination} exists already")
    quiet_transformers()
    from kq_hf import export_bitsandbytes
    from kq_hf.checkpoint import model_folder

    export_bitsandbytes(model_folder(source), destination)
    results.print(f"{destination}: int8 checkpoint of bitsandbytes", markup=False)
