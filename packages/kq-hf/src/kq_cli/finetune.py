"""`kq finetune`."""

from pathlib import Path
from typing import Annotated

import typer

from kq_cli.arguments import Device, Dtype, Json, Model, Text
from kq_cli.models import open_model
from kq_cli.reporting import notes, print_figures, progress, write_json


def finetune(
    model: Model,
    text: Text,
    out: Annotated[Path, typer.Option(help="Folder to make for the adapter.")],
    rank: Annotated[int, typer.Option(help="Rank of the adapters.")] = 8,
    alpha: Annotated[int, typer.Option(help="Adapters are scaled by alpha / rank.")] = 16,
    dropout: Annotated[float, typer.Option(help="Dropout before the adapters.")] = 0.0,
    targets: Annotated[str, typer.Option(help="all-linear, or a pattern.")] = "all-linear",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Rows of text in a step.")] = 4,
    length: Annotated[int, typer.Option(help="Tokens in a row.")] = 256,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-4,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 0.0,
    optim: Annotated[
        str,
        typer.Option(
            help="An optimizer of kq_optim in lower case: adamw, lion8bit, pagedadamw8bit, ..."
        ),
    ] = "adamw8bit",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 20,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Trains LoRA adapters on a text.

    After an interruption, give the same command again: it goes on from its last checkpoint and
    ends as if nothing had happened.
    """
    network, tokenizer = open_model(model, dtype, device)
    from kq_hf.finetune import Finetuning
    from kq_hf.finetune import finetune as train
    from kq_hf.text import read_text, token_rows

    settings = Finetuning(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=targets,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        optim=optim,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    rows = token_rows(tokenizer, read_text(text), length)
    with progress("fine-tuning", steps) as on_step:
        result = train(
            network,
            rows,
            out,
            settings,
            save_every=save_every,
            on_step=lambda done, loss: on_step(done, f"loss {loss:.3f}"),
        )
    if result.resumed_from:
        notes.print(f"{result.resumed_from} of {steps} steps were done already")
    last = result.losses[-min(10, steps) :]
    print_figures(
        str(out),
        {
            "first loss": f"{result.losses[0]:.4f}",
            f"mean of the last {len(last)} losses": f"{sum(last) / len(last):.4f}",
            "trained parameters": f"{result.trainable_parameters:,}",
            "tokens per second": f"{result.tokens / result.seconds:.1f}",
        },
    )
    write_json(
        json,
        {
            "losses": list(result.losses),
            "tokens": result.tokens,
            "seconds": result.seconds,
            "resumed_from": result.resumed_from,
            "trainable_parameters": result.trainable_parameters,
            "adapter": str(out),
        },
    )
