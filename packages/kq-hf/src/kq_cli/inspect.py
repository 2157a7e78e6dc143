"""`kq inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from kq_cli.arguments import Json
from kq_cli.models import quiet_transformers
from kq_cli.reporting import print_figures, results, size, write_json


def inspect(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Folder of a model, its name on the Hub, or a file."),
    ],
    json: Json = None,
) -> None:
    """Tells from the tensors of a checkpoint what is quantized, and how large everything is."""
    quiet_transformers()
    from kq_hf import inspect_checkpoint
    from kq_hf.checkpoint import model_folder

    path = Path(model) if Path(model).is_file() else model_folder(model)
    report = inspect_checkpoint(path)
    results.print(str(report.coverage), markup=False)
    figures = {f"layers in {name}": f"{count}" for name, count in report.formats.items()}
    figures |= {f"dense {name}": size(nbytes) for name, nbytes in report.dtypes.items()}
    figures |= {
        "bits per quantized weight": f"{report.coverage.bits_per_weight:.3f}",
        "bits per parameter": f"{report.bits_per_parameter:.3f}",
        "files": f"{report.files}, {size(report.file_bytes)}",
    }
    print_figures(model, figures)
    write_json(json, report.to_dict())
