"""`kq outliers`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kq_cli.arguments import Device, Dtype, Json, Model, Text
from kq_cli.models import open_model
from kq_cli.reporting import progress, results, write_json

if TYPE_CHECKING:
    from kq_hf.outliers import LayerOutliers


def outliers(
    model: Model,
    text: Text,
    threshold: Annotated[float, typer.Option(help="Magnitude that makes an outlier.")] = 6.0,
    picture: Annotated[
        Path | None, typer.Option(help="Draw layers and features here: .png, .svg or .pdf.")
    ] = None,
    top: Annotated[int, typer.Option(help="Features to list.", min=0)] = 15,
    length: Annotated[int, typer.Option(help="Tokens that see each other.")] = 512,
    tokens: Annotated[int | None, typer.Option(help="Use only so many tokens.")] = 2048,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Tells which input features of which linear layers hold outliers, and how often.

    LLM.int8() multiplies those features unquantized.
    """
    if picture is not None:
        from kq_hf.outlier_picture import check_picture

        check_picture(picture)
    network, tokenizer = open_model(model, dtype, device, causal=False)
    from kq_hf.outliers import outliers as measure
    from kq_hf.text import read_text, token_rows

    rows = token_rows(tokenizer, read_text(text), length, tokens)
    with progress("outliers", len(rows)) as on_row:
        layers = measure(network, rows, threshold, lambda done, _total: on_row(done, ""))
    _print_kinds(layers, f"{model}: inputs of at least {threshold:g} in {rows.numel()} tokens")
    _print_features(layers, top)
    if picture is not None:
        from kq_hf.outlier_picture import draw_outliers

        draw_outliers(layers, threshold, picture)
    from kq_hf.outlier_file import to_dict

    write_json(json, {"tokens": rows.numel(), **to_dict(layers, threshold)})


def _print_kinds(layers: list["LayerOutliers"], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("kind of layer", "layers", "features", "with outliers", "of all", "elements"):
        table.add_column(column, justify="left" if column == "kind of layer" else "right")
    table.add_column("largest", justify="right")
    for kind in dict.fromkeys(layer.kind for layer in layers):
        members = [layer for layer in layers if layer.kind == kind]
        features = sum(layer.counts.numel() for layer in members)
        found = sum(len(layer.features) for layer in members)
        table.add_row(
            kind,
            f"{len(members)}",
            f"{features}",
            f"{found}",
            f"{found / max(1, features):.2%}",
            f"{sum(layer.share for layer in members) / len(members):.4%}",
            f"{max(float(layer.largest.max()) for layer in members):.1f}",
        )
    results.print(table)


def _print_features(layers: list["LayerOutliers"], top: int) -> None:
    """The features that are outliers most often, and of those the largest."""
    ranked = sorted(
        ((layer, feature) for layer in layers for feature in layer.features),
        key=lambda pair: (
            -int(pair[0].counts[pair[1]]) / pair[0].tokens,
            -float(pair[0].largest[pair[1]]),
        ),
    )
    if not ranked or not top:
        return
    table = Table(title=f"{min(top, len(ranked))} of {len(ranked)}", title_justify="left")
    for column in ("layer", "feature", "of tokens", "largest"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for layer, feature in ranked[:top]:
        share = int(layer.counts[feature]) / layer.tokens
        table.add_row(layer.name, f"{feature}", f"{share:.1%}", f"{layer.largest[feature]:.1f}")
    results.print(table)
