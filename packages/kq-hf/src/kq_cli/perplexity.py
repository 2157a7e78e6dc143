"""`kq perplexity`."""

from dataclasses import asdict
from typing import Annotated

import typer

from kq_cli.arguments import Adapter, Device, Dtype, Json, Model, Text
from kq_cli.models import open_model, with_adapter
from kq_cli.reporting import print_figures, progress, write_json


def perplexity(
    model: Model,
    text: Text,
    adapter: Adapter = None,
    length: Annotated[int, typer.Option(help="Tokens that see each other.")] = 512,
    tokens: Annotated[int | None, typer.Option(help="Use only so many tokens.")] = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Measures how well a model predicts a text: lower is better."""
    network, tokenizer = open_model(model, dtype, device)
    from kq_hf.perplexity import perplexity as measure
    from kq_hf.text import read_text, token_rows

    rows = token_rows(tokenizer, read_text(text), length, tokens)
    with progress("perplexity", len(rows)) as on_row:
        result = measure(
            with_adapter(network, adapter), rows, lambda done, _total: on_row(done, "")
        )
    print_figures(
        model,
        {
            "perplexity": f"{result.perplexity:.4f}",
            "tokens": f"{result.tokens}, in rows of {length}",
            "tokens per second": f"{result.tokens / result.seconds:.1f}",
        },
    )
    write_json(json, {**asdict(result), "length": length})
