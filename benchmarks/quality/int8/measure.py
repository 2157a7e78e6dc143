"""Perplexity of a language model, and how far sentence embeddings move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import kq_hf
from benchmarks.quality.int8.contenders import CONTENDERS, Contender
from demo import assets
from kq_hf.text import token_rows
from kq_nn import CoverageReport

_BATCH = 16


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        tokens: of text for the perplexity.
        window: tokens that see each other.
        sentences: that are embedded.
        seeds: of the random matrices whose outliers grow.
    """

    tokens: int
    window: int
    sentences: int
    seeds: int


FULL = Plan(tokens=8192, window=512, sentences=256, seeds=5)
QUICK = Plan(tokens=128, window=64, sentences=8, seeds=1)


@dataclass(frozen=True)
class Predicted:
    """Perplexity, and the loss in nats a token.

    Attributes:
        contender: its name.
        perplexity: exp(nll).
        nll: mean over the predicted tokens.
        bits: what kq stores for a weight of its layers, scales and all; None of others.
    """

    contender: str
    perplexity: float
    nll: float
    bits: float | None


@dataclass(frozen=True)
class Drift:
    """How far embeddings are from those of the float32 model.

    Attributes:
        contender: its name.
        mean: of 1 - cosine, over sentences.
        worst: the largest 1 - cosine.
        pairs: root mean square change of the similarity of two sentences.
    """

    contender: str
    mean: float
    worst: float
    pairs: float


def perplexities(cache: Path, plan: Plan) -> list[Predicted]:
    """SmolLM2 on held-out Wikipedia leads, with each contender."""
    folder = assets.smollm2(cache)
    text = assets.text(assets.wiki_leads(cache), assets.EVALUATION_LEADS)
    rows = token_rows(AutoTokenizer.from_pretrained(folder), text, plan.window, plan.tokens)
    return [_perplexity(contender, folder, rows) for contender in CONTENDERS]


def _perplexity(contender: Contender, folder: Path, rows: Tensor) -> Predicted:
    model = contender.load(AutoModelForCausalLM, folder)
    found = kq_hf.perplexity(model, rows)  # type: ignore[arg-type]
    stored = CoverageReport.of(model)
    bits = stored.bits_per_weight if stored.quantized_parameters else None
    return Predicted(contender.name, found.perplexity, found.nll, bits)


def drifts(cache: Path, plan: Plan) -> list[Drift]:
    """MiniLM on the first sentences of Wikipedia leads, with each contender after float32."""
    leads = assets.wiki_leads(cache)[assets.EVALUATION_LEADS.start :][: plan.sentences]
    sentences = [lead.partition(". ")[0] for lead in leads]
    baseline, *others = CONTENDERS
    expected = _embeddings(baseline, cache, sentences)
    return [_drift(each.name, _embeddings(each, cache, sentences), expected) for each in others]


@torch.inference_mode()
def _embeddings(contender: Contender, cache: Path, sentences: Sequence[str]) -> Tensor:
    """Mean over tokens of the last hidden state: float64 [sentences, width]."""
    folder = assets.minilm(cache)
    model = contender.load(AutoModel, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = []
    for start in range(0, len(sentences), _BATCH):
        batch = list(sentences[start : start + _BATCH])
        inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
        hidden = model(**inputs).last_hidden_state.double()
        mask = inputs["attention_mask"].unsqueeze(-1)
        parts.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(parts)


def _drift(name: str, found: Tensor, expected: Tensor) -> Drift:
    apart = 1 - cosine_similarity(found, expected)
    change = _similarities(found) - _similarities(expected)
    return Drift(name, float(apart.mean()), float(apart.max()), float(change.pow(2).mean().sqrt()))


def _similarities(embeddings: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(embeddings)
    return unit @ unit.T
