"""What 4 bits do to a real model, and that nothing but the format does it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import kq_hf
from demo import assets
from kq_hf.text import token_rows

CACHE = Path(__file__).parents[2] / "build" / "cache"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Two rows of 256 tokens of held-out text."""
    tokenizer = AutoTokenizer.from_pretrained(assets.smollm2(CACHE))
    text = assets.text(assets.wiki_leads(CACHE), assets.EVALUATION_LEADS)
    return token_rows(tokenizer, text, 256, 512)


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Of each token but the first of a row: float64 [rows, length - 1]."""
    logits = model(rows).logits[:, :-1].double()
    taken: Tensor = logits.log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
    return taken


def load(dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        assets.smollm2(CACHE), quantization_config=kq_hf.KqConfig(), dtype=dtype
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_computes_with_the_dequantized_weights(rows: Tensor, dtype: torch.dtype) -> None:
    exact = log_probabilities(load(torch.float32).dequantize(torch.float64).double(), rows)
    quantized = log_probabilities(load(dtype), rows) - exact
    dense = log_probabilities(load(dtype).dequantize(dtype), rows) - exact
    print(
        f"\n{dtype}: perplexity exact {(-exact).mean().exp():.6f}, "
        f"NF4 {(-exact - quantized).mean().exp():.6f}, dense {(-exact - dense).mean().exp():.6f}; "
        f"rms error of a log-probability: NF4 {quantized.square().mean().sqrt():.2e}, "
        f"dense {dense.square().mean().sqrt():.2e}"
    )
    # Both round each product and sum to the same precision, in another order: two samples of
    # one error. A factor of 2 between their rms over 510 tokens would not be chance.
    assert quantized.square().mean() <= 4 * dense.square().mean()
