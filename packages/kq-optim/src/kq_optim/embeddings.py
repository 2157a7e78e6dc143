"""Embeddings, whose gradients touch few rows at a time, gain from exact state."""

from __future__ import annotations

from torch import nn

from kq_optim.optimizer import Optimizer


def keep_embeddings_32bit(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """Keeps the state of a model's embeddings in 32 bits, whatever `optimizer` does with the rest.

    Embeddings are the parameters of `nn.Embedding` and `nn.EmbeddingBag`; an output layer that
    shares them is one of them. Call it before the first step, and before a checkpoint is loaded:
    transformers' Trainer does the like for bitsandbytes.

    Args:
        optimizer: holds all of these parameters, some, or none.
        model: the model.

    Returns:
        The names of the modules whose parameters are kept.

    Raises:
        ValueError: if such a parameter has 8-bit state already.
    """
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    kept = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and id(module.weight) in held:
            optimizer.override(module.weight, state="32bit")
            kept.append(name)
    return kept
