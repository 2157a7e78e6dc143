"""`kq quantize`."""

from pathlib import Path
from typing import Annotated

import typer

from kq_cli.arguments import Dtype, Json
from kq_cli.models import check_dtype, quiet_transformers
from kq_cli.reporting import print_figures, results, size, write_json

_FORMATS = ("nf4", "fp4")


def quantize(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Model with dense weights.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    quant_type: Annotated[str, typer.Option("--format", help="nf4 or fp4.")] = "nf4",
    blocksize: Annotated[int, typer.Option(help="Weights that share a scale.")] = 64,
    double_quant: Annotated[
        bool, typer.Option("--double-quant", help="Quantize the scales too.")
    ] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Modules to leave dense: regular expression or suffix; repeatable."),
    ] = None,
    dtype: Dtype = "auto",
    json: Json = None,
) -> None:
    """Quantizes the linear layers of a model and saves it in a new folder."""
    if quant_type not in _FORMATS:
        raise ValueError(f"--format must be one of {', '.join(_FORMATS)}, got {quant_type!r}")
    if destination.exists():
        raise ValueError(f"{destination} exists already")
    check_dtype(dtype)
    quiet_transformers()
    from kq_hf import KqConfig, inspect_checkpoint, quantize_checkpoint
    from kq_hf.checkpoint import model_folder, weight_bytes

    config = KqConfig(quant_type, blocksize, double_quant, modules_to_not_convert=skip)
    folder = model_folder(source)
    coverage = quantize_checkpoint(folder, destination, config, dtype)
    before, after = weight_bytes(folder), inspect_checkpoint(destination)
    results.print(str(coverage), markup=False)
    print_figures(
        str(destination),
        {
            "bits per quantized weight": f"{coverage.bits_per_weight:.3f}",
            "bits per parameter": f"{after.bits_per_parameter:.3f}",
            "files before": size(before),
            "files after": size(after.file_bytes),
        },
    )
    write_json(
        json,
        {
            "coverage": coverage.to_dict(),
            "bits_per_parameter": after.bits_per_parameter,
            "file_bytes_before": before,
            "file_bytes_after": after.file_bytes,
        },
    )
