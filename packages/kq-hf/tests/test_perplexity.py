import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from kq_hf import perplexity
from kq_hf.generation import continue_prompt
from kq_hf.text import read_text, token_rows


def test_equals_the_definition(llama: Path, ids: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama).train()
    seen = []
    found = perplexity(model, ids, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert model.training
    logits = model.eval()(ids).logits.detach().numpy().astype(np.float64)[:, :-1]
    log_sum = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, ids.numpy()[:, 1:, None], -1)[..., 0]
    nll = (log_sum - picked).mean()
    # Logits in batches of one and of two may differ in the last bits; the sum of 30 float32
    # terms of about log(300) = 5.7 adds at most 30 rounding errors of it.
    assert found.nll == pytest.approx(nll, rel=64 * 2**-24)
    assert found.perplexity == math.exp(found.nll)
    assert (found.tokens, found.predicted) == (32, 30)


def test_rows_without_anything_to_predict_are_refused(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    for shape in [(0, 8), (3, 1), (8,)]:
        with pytest.raises(ValueError, match="rows must have shape"):
            perplexity(model, torch.ones(shape, dtype=torch.int64))


def test_rows_are_consecutive(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    rows = token_rows(tokenizer, text, 32)
    assert rows.dtype == torch.int64
    assert rows.flatten().tolist() == ids[: len(ids) // 32 * 32]
    assert token_rows(tokenizer, text, 32, 100).shape == (3, 32)


def test_every_row_begins_with_bos_where_a_text_does(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    with_bos = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(
            tokenizer.backend_tokenizer.to_str()
        ),
        bos_token="<eos>",
    )
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 0)]
    )
    rows = token_rows(with_bos, text, 32)
    assert set(rows[:, 0].tolist()) == {0}
    plain = tokenizer(text)["input_ids"]
    assert rows[:, 1:].flatten().tolist() == plain[: len(plain) // 31 * 31]


@pytest.mark.parametrize(
    ("length", "limit", "message"),
    [
        (1, None, "length must be at least 2"),
        (32, 31, "limit must be at least one row of 32 tokens, got 31"),
        (10**6, None, "fewer than one row of 1000000"),
    ],
)
def test_bad_length_is_refused(
    tokenizer: PreTrainedTokenizerFast, text: str, length: int, limit: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        token_rows(tokenizer, text, length, limit)


def test_text_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_text(file)
    file.write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        read_text(file)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


def test_generation_reports_what_was_written(
    quantized: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(quantized)
    options = {"max_new_tokens": 5, "min_new_tokens": 5}
    greedy = continue_prompt(model, tokenizer, "the quick", **options)
    assert greedy.new_tokens == 5
    assert greedy.tokens_per_second == 5 / greedy.seconds
    assert continue_prompt(model, tokenizer, "the quick", **options).text == greedy.text
    drawn = [
        continue_prompt(model, tokenizer, "the", temperature=2.0, seed=seed, **options).text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompt_is_checked(quantized: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(quantized)
    with pytest.raises(ValueError, match="no chat template"):
        continue_prompt(model, tokenizer, "the", chat=True)
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        continue_prompt(model, tokenizer, "")
