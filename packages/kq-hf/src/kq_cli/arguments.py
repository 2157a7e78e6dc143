"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


def _not_a_folder(file: Path | None) -> Path | None:
    """Refuses, before any work is done, a results file that could not be written."""
    if file is not None and file.is_dir():
        raise typer.BadParameter(f"{file} is a folder")
    return file


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Folder of a model, or its name on the Hub."),
]
Text = Annotated[
    Path,
    typer.Option("--text", help="UTF-8 text file.", exists=True, dir_okay=False, readable=True),
]
Adapter = Annotated[
    Path | None,
    typer.Option("--adapter", help="Folder of a LoRA adapter.", exists=True, file_okay=False),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16 for what is not quantized; auto: as it is stored.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="Where to compute, such as cpu or cuda.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write results here too.", callback=_not_a_folder),
]
