"""Preparing a quantized model for training, and naming kq's optimizers for the Trainer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel

import kq_optim

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = MappingProxyType(
    {
        name.lower(): value
        for name, value in vars(kq_optim).items()
        if isinstance(value, type)
        and issubclass(value, kq_optim.Optimizer)
        and value is not kq_optim.Optimizer
    }
)
"""All optimizers of kq_optim by their names in lower case, such as "pagedadamw8bit"."""


def prepare_for_training(
    model: PreTrainedModel, *, gradient_checkpointing: bool = True
) -> PreTrainedModel:
    """Readies a quantized model for adapters, in place; call it before `get_peft_model`.

    Freezes every parameter and switches on gradient checkpointing, which PEFT and the Trainer do
    by themselves only for the quantization methods they know. No dtype is changed: the adapters
    are float32 of their own accord, the packed weights have none.

    Args:
        model: A model loaded with a `KqConfig` or converted by `kq_nn.quantize_model`.
        gradient_checkpointing: Whether to recompute activations in the backward pass instead of
            keeping them.

    Returns:
        The model.

    Raises:
        ValueError: If gradient checkpointing is asked of a model that does not support it.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if gradient_checkpointing:
        # The reentrant variant would need inputs that require a gradient: with all of the model
        # frozen it silently trains nothing.
        newer = getattr(model, "activation_checkpointing_enable", None)  # renamed during 5.x
        enable: Any = newer or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.config.use_cache = False  # the cache of keys and values is of no use in training
    return model


def optimizer_cls_and_kwargs(
    name: str = "adamw8bit", *, lr: float, **options: Any
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """What `Trainer(optimizer_cls_and_kwargs=...)` needs to train with a kq optimizer.

    The Trainer builds the groups with and without weight decay itself. `TrainingArguments.optim`
    cannot name an optimizer from outside transformers.

    Args:
        name: One of `OPTIMIZERS`.
        lr: Learning rate; the Trainer does not add that of its arguments.
        **options: Other arguments of the optimizer.

    Returns:
        The class and its keyword arguments.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name], {"lr": lr, **options}
