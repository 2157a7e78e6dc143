"""Which input features of linear layers hold outliers, on a text."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class LayerOutliers:
    """How often the features of one layer's input reach the threshold.

    Attributes:
        name: Of the layer.
        tokens: Number of inputs seen.
        counts: int64 [in_features]: in how many of them the feature reached the threshold.
        largest: float32 [in_features]: the largest magnitude of the feature.
    """

    name: str
    tokens: int
    counts: Tensor
    largest: Tensor

    @property
    def kind(self) -> str:
        """What layers of the same role are called: the last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def features(self) -> list[int]:
        """The features that reached the threshold at least once."""
        return [int(index) for index in self.counts.nonzero()]

    @property
    def share(self) -> float:
        """Share of all elements of the inputs that reached the threshold."""
        return int(self.counts.sum()) / max(1, self.tokens * self.counts.numel())


@torch.inference_mode()
def outliers(
    model: PreTrainedModel,
    rows: Tensor,
    threshold: float = 6.0,
    on_row: Callable[[int, int], None] | None = None,
) -> list[LayerOutliers]:
    """Counts the inputs of every linear layer whose magnitude is at least a threshold.

    That is what LLM.int8() keeps out of its int8 product; layers may be dense or quantized. NaN
    does not count, infinity does.

    Args:
        model: Any model that takes tokens.
        rows: int64 [rows, length], see `kq_hf.text.token_rows`.
        threshold: Positive.
        on_row: Called after each row with the number of rows done and their total.

    Returns:
        One record for each layer that was used, in the order of the model. The model is in its
        former mode (train or eval) afterwards.

    Raises:
        ValueError: If the threshold is not positive, or the model has no linear layer.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} has no linear layer")
    training = model.training
    model.eval()
    found: dict[str, LayerOutliers] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_count, found, name, threshold))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for index, row in enumerate(rows.to(model.device)):
            model(input_ids=row[None])
            if on_row:
                on_row(index + 1, len(rows))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return [found[name] for name, _ in model.named_modules() if name in found]


def outlier_columns(layers: Iterable[LayerOutliers], share: float = 0.01) -> dict[str, list[int]]:
    """Features that are outliers often, by layer, for `KqConfig(kept_columns=...)`.

    Args:
        layers: What `outliers` returns.
        share: Of the tokens in which a feature reaches the threshold, at least; 0: in any token.

    Returns:
        Ascending features of the layers that have such.

    Raises:
        ValueError: If the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    chosen = {
        layer.name: [f for f in layer.features if layer.counts[f] >= share * layer.tokens]
        for layer in layers
    }
    return {name: features for name, features in chosen.items() if features}


def _count(
    found: dict[str, LayerOutliers],
    name: str,
    threshold: float,
    _layer: nn.Module,
    inputs: tuple[Tensor, ...],
) -> None:
    """Adds one call of a layer to its record."""
    sizes = inputs[0].flatten(0, -2).float().abs()
    if not len(sizes):
        return
    counts, largest = (sizes >= threshold).sum(0).cpu(), sizes.nan_to_num(0.0, torch.inf).amax(0)
    tokens, largest = len(sizes), largest.cpu()
    if name in found:
        before = found[name]
        tokens += before.tokens
        counts, largest = counts + before.counts, torch.maximum(largest, before.largest)
    found[name] = LayerOutliers(name, tokens, counts, largest)
