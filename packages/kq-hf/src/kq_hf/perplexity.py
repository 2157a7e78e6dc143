"""Perplexity of a causal language model on a text."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Perplexity:
    """A measurement.

    Attributes:
        perplexity: exp(nll).
        nll: Mean negative log-likelihood of the predicted tokens, in nats.
        tokens: Number of tokens read.
        predicted: Number of tokens predicted: all but the first of each row.
        seconds: Time taken.
    """

    perplexity: float
    nll: float
    tokens: int
    predicted: int
    seconds: float


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel | PeftModel,
    rows: Tensor,
    on_row: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Measures how well a model predicts each next token within rows of tokens.

    Rows do not see each other. The sum over a row is taken in float32, that over rows in float64.

    Args:
        model: A causal language model.
        rows: int64 [rows, length] with a length of at least 2, see `kq_hf.text.token_rows`.
        on_row: Called after each row with the number of rows done and their total.

    Returns:
        The measurement. The model is in its former mode (train or eval) afterwards.

    Raises:
        ValueError: If `rows` has no token to predict.
    """
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] < 2:
        raise ValueError(f"rows must have shape [rows >= 1, length >= 2], got {list(rows.shape)}")
    training = model.training
    model.eval()
    start = time.perf_counter()
    total = 0.0
    try:
        for index, row in enumerate(rows.to(model.device)):
            logits = model(row[None], use_cache=False).logits[0, :-1].float()
            total += cross_entropy(logits, row[1:], reduction="sum").item()
            if on_row:
                on_row(index + 1, len(rows))
    finally:
        model.train(training)
    predicted = rows.shape[0] * (rows.shape[1] - 1)
    nll = total / predicted
    seconds = time.perf_counter() - start
    value = float(torch.tensor(nll, dtype=torch.float64).exp())  # inf instead of OverflowError
    return Perplexity(value, nll, rows.numel(), predicted, seconds)
