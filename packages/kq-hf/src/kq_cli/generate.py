"""`kq generate`."""

from typing import Annotated

import typer

from kq_cli.arguments import Adapter, Device, Dtype, Json, Model
from kq_cli.models import open_model, with_adapter
from kq_cli.reporting import notes, write_json


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="How the text begins, or the question.")],
    adapter: Adapter = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add at most.", min=1)] = 64,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token each time.", min=0)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed for a temperature above 0.")] = 0,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Continues a prompt."""
    if not prompt:
        raise ValueError("--prompt must not be empty")
    network, tokenizer = open_model(model, dtype, device)
    from transformers import TextStreamer

    from kq_hf.generation import continue_prompt

    result = continue_prompt(
        with_adapter(network, adapter),
        tokenizer,
        prompt,
        chat=chat,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        # Text appears as it is made: that is the progress bar of this command.
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    notes.print(f"{result.new_tokens} tokens, {result.tokens_per_second:.1f} per second")
    write_json(
        json,
        {
            "prompt": prompt,
            "text": result.text,
            "new_tokens": result.new_tokens,
            "seconds": result.seconds,
            "tokens_per_second": result.tokens_per_second,
        },
    )
