"""Continuing a prompt, with the time it takes."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """What a model has written.

    Attributes:
        text: The text after the prompt, without special tokens.
        new_tokens: Number of its tokens.
        seconds: Time taken, reading the prompt included.
    """

    text: str
    new_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Speed of writing."""
        return self.new_tokens / self.seconds


def continue_prompt(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    chat: bool = False,
    max_new_tokens: int = 64,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    streamer: Any = None,
) -> Generation:
    """Lets a model continue a prompt.

    Args:
        model: A causal language model, with or without adapters.
        tokenizer: Its tokenizer.
        prompt: How the text begins; with `chat`, what the user says.
        chat: Whether to put the prompt into the model's chat template.
        max_new_tokens: Most tokens to write.
        min_new_tokens: Fewest tokens to write, for measuring speed.
        temperature: 0 takes the likeliest token each time; higher is more random.
        seed: Seed of the random numbers.
        streamer: What transformers gives the text to as it is made.

    Returns:
        The text and its figures.

    Raises:
        ValueError: If there is no chat template, or the prompt has no tokens.
    """
    if chat:
        if not tokenizer.chat_template:
            raise ValueError("this model has no chat template")
        messages = [{"role": "user", "content": prompt}]
        prompt = str(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        )
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(model.device)
    read = inputs["input_ids"].shape[1]
    if read == 0:
        raise ValueError("the prompt has no tokens")
    sampling: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        sampling["temperature"] = temperature
    torch.manual_seed(seed)
    pad = tokenizer.pad_token_id
    start = time.perf_counter()
    generate: Any = model.generate
    output = generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        pad_token_id=tokenizer.eos_token_id if pad is None else pad,
        streamer=streamer,
        **sampling,
    )
    seconds = time.perf_counter() - start
    written = output[0, read:]
    text = tokenizer.decode(written, skip_special_tokens=True)
    return Generation(str(text), len(written), seconds)
