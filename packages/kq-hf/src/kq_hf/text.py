"""Text as rows of tokens of one length."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def read_text(path: Path) -> str:
    """The content of a text file.

    Args:
        path: A UTF-8 file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8 text or there is nothing in it.
    """
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not content.strip():
        raise ValueError(f"{path} holds no text")
    return content


def token_rows(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, limit: int | None = None
) -> Tensor:
    """Cuts the tokens of a text into consecutive rows.

    Where the tokenizer begins a text with a BOS token, every row begins with it.

    Args:
        tokenizer: The tokenizer of the model.
        text: Any text.
        length: Tokens in a row, at least 2.
        limit: How many tokens to take at most; None takes all.

    Returns:
        int64 [rows, length]. An incomplete last row is left out.

    Raises:
        ValueError: If `length` or `limit` is too small, or the text is shorter than one row.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2 tokens, got {length}")
    if limit is not None and limit < length:
        raise ValueError(f"limit must be at least one row of {length} tokens, got {limit}")
    # verbose=False: the whole text is longer than any model's context, and is cut below.
    ids = tokenizer(text, verbose=False)["input_ids"]
    bos = ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []
    body = torch.tensor(ids[len(bos) :], dtype=torch.int64)
    step = length - len(bos)
    rows = len(body) // step
    if limit is not None:
        rows = min(rows, limit // length)
    if rows == 0:
        raise ValueError(f"the text has {len(body)} tokens, fewer than one row of {length}")
    table = body[: rows * step].view(rows, step)
    return torch.cat([torch.tensor([bos] * rows, dtype=torch.int64), table], 1) if bos else table
