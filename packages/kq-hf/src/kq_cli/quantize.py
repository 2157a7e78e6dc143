"""`kq quantize`."""

from pathlib import Path
from typing import Annotated

import typer

from kq_cli.arguments import Dtype, Json
from kq_cli.models import check_dtype, quiet_transformers
from kq_cli.reporting import print_figures, results, size, write_json

_FORMATS = ("nf4", "fp4", "int8")


def quantize(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Model with dense weights.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    format: Annotated[str, typer.Option(help="nf4, fp4 or int8.")] = "nf4",  # noqa: A002
    blocksize: Annotated[
        int | None, typer.Option(help="Of nf4 and fp4: weights that share a scale; 64.")
    ] = None,
    double_quant: Annotated[
        bool, typer.Option("--double-quant", help="Of nf4 and fp4: quantize the scales too.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of int8: magnitude from which inputs stay unquantized; 6, 0: none do."),
    ] = None,
    keep_outliers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of int8: keep in 16 bits what rounding takes from the columns of the weights "
            "whose inputs hold outliers, as `kq outliers --json FILE` has found them.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    keep_share: Annotated[
        float,
        typer.Option(help="Share of tokens in which such an input holds one, at least; 0: any."),
    ] = 0.01,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Modules to leave dense: regular expression or suffix; repeatable."),
    ] = None,
    dtype: Dtype = "auto",
    json: Json = None,
) -> None:
    """Quantizes the linear layers of a model and saves it in a new folder."""
    if format not in _FORMATS:
        raise ValueError(f"--format must be one of {', '.join(_FORMATS)}, got {format!r}")
    if destination.exists():
        raise ValueError(f"{destination} exists already")
    check_dtype(dtype)
    quiet_transformers()
    from kq_hf import KqConfig, inspect_checkpoint, outlier_columns, quantize_checkpoint
    from kq_hf.checkpoint import model_folder, weight_bytes
    from kq_hf.outlier_file import read_outliers

    kept = outlier_columns(read_outliers(keep_outliers), keep_share) if keep_outliers else None
    config = KqConfig(
        format,
        blocksize,
        # The other formats have no such option: leaving it out asks for nothing.
        double_quant if double_quant or format != "int8" else None,
        modules_to_not_convert=skip,
        threshold=threshold,
        kept_columns=kept,
    )
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
