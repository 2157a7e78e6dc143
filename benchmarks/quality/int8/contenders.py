"""Ways to compute the linear layers of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BitsAndBytesConfig

import kq_hf
from demo import assets
from interop.decoded import with_decoded_weights
from interop.paths import CACHE
from kq_hf.text import token_rows

THRESHOLD = 6.0
KEPT = {"frequent columns kept": 0.01, "all columns kept": 0.0}
"""Columns that held an outlier in at least so large a share of the tokens of another text."""


class Contender(NamedTuple):
    """One way.

    Attributes:
        name: in the report.
        load: from the model's class and its folder, float32 besides the linear layers.
    """

    name: str
    load: Callable[[Any, Path], nn.Module]


def _dense(kind: Any, folder: Path) -> nn.Module:
    model: nn.Module = kind.from_pretrained(folder, dtype=torch.float32)
    return model


def _int8(
    kind: Any, folder: Path, threshold: float, kept: dict[str, list[int]] | None = None
) -> nn.Module:
    config = kq_hf.KqConfig("int8", threshold=threshold, kept_columns=kept)
    model: nn.Module = kind.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    return model


def _weights_only(kind: Any, folder: Path) -> nn.Module:
    return with_decoded_weights(_int8(kind, folder, 0.0), torch.float32)


def _kept(kind: Any, folder: Path, share: float) -> nn.Module:
    layers = kq_hf.outliers(_dense(kind, folder), _calibration(folder), THRESHOLD)  # type: ignore[arg-type]
    return _int8(kind, folder, THRESHOLD, kq_hf.outlier_columns(layers, share))


def _calibration(folder: Path) -> Tensor:
    """Text on which nothing is measured afterwards."""
    text = assets.text(assets.wiki_leads(CACHE), assets.TRAINING_LEADS[:200])
    return token_rows(AutoTokenizer.from_pretrained(folder), text, length=128, limit=2048)


def _bitsandbytes(kind: Any, folder: Path) -> nn.Module:
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=THRESHOLD)
    model: nn.Module = kind.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    return model


CONTENDERS = (
    Contender("float32", _dense),
    Contender("int8 weights only", _weights_only),
    Contender("kq int8, no outliers", lambda kind, folder: _int8(kind, folder, 0.0)),
    Contender(
        f"kq int8, threshold {THRESHOLD:g}", lambda kind, folder: _int8(kind, folder, THRESHOLD)
    ),
    *(
        Contender(f"kq int8, threshold {THRESHOLD:g}, {name}", partial(_kept, share=share))
        for name, share in KEPT.items()
    ),
    Contender(f"bitsandbytes int8, threshold {THRESHOLD:g}", _bitsandbytes),
)
