"""LoRA fine-tuning of a quantized model on a text, resumable after any interruption.

What happens in a step depends on the settings and the number of the step alone: the order of
the rows, the learning rate and the random numbers are functions of it. A run that was cut off
therefore goes on from its last checkpoint as if nothing had happened.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from kq_hf import lora
from kq_hf.run_state import Run, RunState
from kq_hf.training import OPTIMIZERS, optimizer_cls_and_kwargs, prepare_for_training


@dataclass(frozen=True)
class Finetuning:
    """Settings of a fine-tuning run.

    Attributes:
        rank: Rank of the LoRA matrices.
        alpha: The adapter's contribution is scaled by alpha / rank.
        dropout: Dropout probability in front of the adapters.
        targets: Modules that get an adapter: "all-linear" or a pattern that PEFT understands.
        steps: Number of optimizer steps.
        batch_size: Rows in a step.
        lr: Highest learning rate: reached linearly within the first tenth of the steps, and
            left linearly towards zero in the others.
        weight_decay: Decoupled weight decay of the adapters.
        max_grad_norm: Gradients of a larger norm are scaled down to it.
        optim: One of `OPTIMIZERS`.
        gradient_checkpointing: Recompute activations instead of keeping them.
        seed: Seed of the adapters' first values, the order of rows, and dropout.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str = "all-linear"
    steps: int = 100
    batch_size: int = 4
    lr: float = 2e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optim: str = "adamw8bit"
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "steps", "batch_size", "lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, got {self.dropout}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.optim not in OPTIMIZERS:
            raise ValueError(f"optim must be one of {', '.join(OPTIMIZERS)}, got {self.optim!r}")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warmup = max(1, self.steps // 10)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return self.lr * (self.steps - step) / max(1, self.steps - warmup + 1)

    def rows_at(self, step: int, rows: int) -> list[int]:
        """Which of `rows` rows make up the batch of a step: each row once in every pass."""
        chosen = []
        for sample in range(step * self.batch_size, (step + 1) * self.batch_size):
            generator = torch.Generator().manual_seed(self.seed + sample // rows)
            order = torch.randperm(rows, generator=generator)
            chosen.append(int(order[sample % rows]))
        return chosen


@dataclass(frozen=True)
class FinetuneResult:
    """A finished run.

    Attributes:
        adapter: Folder of the adapter.
        losses: Loss of each step, in nats per token.
        tokens: Number of tokens trained on.
        seconds: Time of all steps, those before an interruption included.
        resumed_from: Number of steps that were done already when this call started.
        trainable_parameters: Number of the adapters' parameters.
    """

    adapter: Path
    losses: tuple[float, ...]
    tokens: int
    seconds: float
    resumed_from: int
    trainable_parameters: int


def finetune(
    model: PreTrainedModel,
    rows: Tensor,
    out: Path,
    settings: Finetuning,
    *,
    save_every: int = 20,
    on_step: Callable[[int, float], None] | None = None,
) -> FinetuneResult:
    """Trains LoRA adapters and saves them in a new folder.

    While it runs there is a file `<out>.checkpoint`, replaced every `save_every` steps. Called
    again with the same model, rows and settings after an interruption, it goes on from there and
    ends with the result of an unbroken run, bit for bit on one machine; called again after it has
    finished, it returns the result.

    Args:
        model: A quantized causal language model; it is wrapped and trained in place. (If the run
            had finished already, the adapters that it gets are fresh: load those in `out`.)
        rows: int64 [rows, length], see `kq_hf.text.token_rows`.
        out: Folder to make for the adapter.
        settings: How to train.
        save_every: Steps between two checkpoints.
        on_step: Called after each step with the number of steps done and the loss.

    Returns:
        The losses and where the adapter is.

    Raises:
        FileExistsError: If `out` exists and is not the result of this very run.
        ValueError: If the checkpoint belongs to another run, or cannot be read.
        FloatingPointError: If the loss is not finite any more.
    """
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    run = Run.of(out, asdict(settings), model, rows)
    state = run.finished() or run.resume()
    resumed_from = len(state.losses)
    adapted, optimizer = _adapted(model, settings)
    if resumed_from < settings.steps:
        state.restore(adapted, optimizer)
        _train(adapted, optimizer, rows, settings, state, run, save_every, on_step)
        run.finish(adapted, state)
    return FinetuneResult(
        adapter=out,
        losses=tuple(state.losses),
        tokens=len(state.losses) * settings.batch_size * rows.shape[1],
        seconds=state.seconds,
        resumed_from=resumed_from,
        trainable_parameters=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
    )


def _adapted(
    model: PreTrainedModel, settings: Finetuning
) -> tuple[PeftModel, torch.optim.Optimizer]:
    """The model with fresh adapters, and the optimizer of their parameters."""
    prepare_for_training(model, gradient_checkpointing=settings.gradient_checkpointing)
    config = lora.register(
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.targets,
        )
    )
    torch.manual_seed(settings.seed)
    adapted = get_peft_model(model, config)
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer_cls, options = optimizer_cls_and_kwargs(
        settings.optim, lr=settings.lr, weight_decay=settings.weight_decay
    )
    return adapted, optimizer_cls(parameters, **options)


def _train(
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    settings: Finetuning,
    state: RunState,
    run: Run,
    save_every: int,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """Takes the steps that `state` does not have yet."""
    model.train()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rows = rows.to(model.device)
    for step in range(len(state.losses), settings.steps):
        start = time.perf_counter()
        torch.manual_seed(settings.seed + step)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(step)
        batch = rows[settings.rows_at(step, len(rows))]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}: lower lr?")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        state.losses.append(loss.item())
        state.seconds += time.perf_counter() - start
        if len(state.losses) % save_every == 0 and len(state.losses) < settings.steps:
            run.save(model, optimizer, state)
        if on_step:
            on_step(len(state.losses), state.losses[-1])
