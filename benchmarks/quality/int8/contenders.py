"""Ways to compute the linear layers of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

import kq_hf
import kq_nn
from interop.decoded import with_decoded_weights

THRESHOLD = 6.0


class Contender(NamedTuple):
    """One way.

    Attributes:
        name: in the report.
        load: from the model's class and its folder, float32 besides the linear layers.
    """

    name: str
    load: Callable[[Any, Path], nn.Module]


class KeptColumns(nn.Module):
    """An int8 layer that multiplies outlier columns with those of its unquantized weight.

    What accuracy that would bring, at the cost of keeping that weight: there is no such kernel.
    """

    def __init__(self, layer: kq_nn.Linear8bitLt, weight: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("lost", weight - layer.dequantize())

    def forward(self, x: Tensor) -> Tensor:
        """Adds to the layer's output what the rounding of the outlier columns took from it."""
        columns = (x.abs() >= self.layer.threshold).flatten(0, -2).any(0)
        lost: Tensor = self.lost  # type: ignore[assignment]
        output: Tensor = self.layer(x) + x[..., columns] @ lost[:, columns].T
        return output


def _dense(kind: Any, folder: Path) -> nn.Module:
    model: nn.Module = kind.from_pretrained(folder, dtype=torch.float32)
    return model


def _int8(kind: Any, folder: Path, threshold: float) -> nn.Module:
    config = kq_hf.KqConfig("int8", threshold=threshold)
    model: nn.Module = kind.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    return model


def _weights_only(kind: Any, folder: Path) -> nn.Module:
    return with_decoded_weights(_int8(kind, folder, 0.0), torch.float32)


def _kept(kind: Any, folder: Path) -> nn.Module:
    model, dense = _int8(kind, folder, THRESHOLD), _dense(kind, folder)
    for name, module in list(model.named_modules()):
        if isinstance(module, kq_nn.Linear8bitLt):
            weight = dense.get_parameter(f"{name}.weight").detach()
            model.set_submodule(name, KeptColumns(module, weight))
    return model


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
    Contender(f"kq int8, threshold {THRESHOLD:g}, weight columns kept", _kept),
    Contender(f"bitsandbytes int8, threshold {THRESHOLD:g}", _bitsandbytes),
)
