"""A quantized model predicts what a dense model with the decoded weights predicts.

What remains between the two is the rounding of the computation: kq multiplies with float32 codes
times scales, the dense model with weights rounded to its dtype.
"""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import kq_hf
import kq_nn
from demo import assets
from interop.decoded import with_decoded_weights
from interop.paths import CACHE
from kq_hf.text import token_rows

TOKENS, WINDOW = 2048, 512


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_perplexity_equals_that_of_the_decoded_weights(report, dtype) -> None:
    folder = assets.smollm2(CACHE)
    text = assets.text(assets.wiki_leads(CACHE), assets.EVALUATION_LEADS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = token_rows(tokenizer, text, WINDOW)[: TOKENS // WINDOW]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    full = kq_hf.perplexity(model, rows)
    kq_nn.quantize_model(model, skip=["lm_head"])
    dense = with_decoded_weights(model, dtype)
    quantized, decoded = kq_hf.perplexity(model, rows), kq_hf.perplexity(dense, rows)
    difference = quantized.nll - decoded.nll
    report[f"perplexity {dtype}"] = {
        "full precision": full.perplexity,
        "nf4, double quantization": quantized.perplexity,
        "dense with the decoded weights": decoded.perplexity,
        "difference of the loss in nats per token": difference,
    }
    # The mean of n losses whose roundings are independent, each of a logit's size (up to 2^5) and u
    # = 2^-24 or 2^-8 relative, amplified by the depth: 60 residual additions, each within sqrt(60)
    # u.
    unit = 2.0**-24 if dtype == torch.float32 else 2.0**-8
    assert abs(difference) <= 32 * math.sqrt(60) * unit / math.sqrt(rows.numel())
