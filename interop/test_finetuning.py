"""The same recipe on kq and on bitsandbytes + PEFT: the two loss curves run together.

Same model, text, order of rows, first adapter values and learning rates; NF4 with double
quantization and AdamW with 8-bit states on both sides. The yardstick for "together" is how far the
curve moves when nothing but the adapters' first values changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import bitsandbytes
import matplotlib
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import kq_hf
import kq_nn
import kq_optim
from demo import assets
from interop.paths import CACHE, REPORT
from kq_hf.text import token_rows

matplotlib.use("Agg")
RECIPE = kq_hf.Finetuning(rank=8, alpha=16, steps=30, batch_size=2, lr=1e-3)
WINDOW = 128


def kq_model(folder) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    kq_nn.quantize_model(model, skip=["lm_head"])
    return kq_hf.prepare_for_training(model, gradient_checkpointing=False)


def bnb_model(folder) -> nn.Module:
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=config
    )
    return model.requires_grad_(False)


def losses(
    model: nn.Module, optimizer: Callable[..., torch.optim.Optimizer], rows: Tensor, seed: int
) -> list[float]:
    torch.manual_seed(seed)
    adapted = get_peft_model(
        model, LoraConfig(r=RECIPE.rank, lora_alpha=RECIPE.alpha, target_modules="all-linear")
    ).train()
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    steps = optimizer(parameters, lr=RECIPE.lr, weight_decay=RECIPE.weight_decay)
    curve = []
    for step in range(RECIPE.steps):
        for group in steps.param_groups:
            group["lr"] = RECIPE.lr_at(step)
        batch = rows[RECIPE.rows_at(step, len(rows))]
        loss = adapted(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, RECIPE.max_grad_norm)
        steps.step()
        steps.zero_grad()
        curve.append(loss.item())
    return curve


def mean_distance(a: list[float], b: list[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


def test_loss_curves_run_together(report) -> None:
    folder = assets.smollm2(CACHE)
    text = assets.text(assets.wiki_leads(CACHE), range(400))
    rows = token_rows(AutoTokenizer.from_pretrained(folder), text, WINDOW)
    curves = {
        "kq": losses(kq_model(folder), kq_optim.AdamW8bit, rows, seed=0),
        "bitsandbytes": losses(bnb_model(folder), bitsandbytes.optim.AdamW8bit, rows, seed=0),
        "kq, other first values": losses(kq_model(folder), kq_optim.AdamW8bit, rows, seed=1),
    }
    noise = mean_distance(curves["kq"], curves["kq, other first values"])
    distance = mean_distance(curves["kq"], curves["bitsandbytes"])
    report["fine-tuning"] = {"mean distance": distance, "noise": noise, "curves": curves}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    (REPORT.parent / "curves.json").write_text(json.dumps(curves))
    plot(curves)
    assert distance <= noise


def plot(curves: dict[str, list[float]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(range(1, len(curve) + 1), curve, style, label=name)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title="QLoRA on SmolLM2-135M, NF4")
    axes.legend()
    figure.savefig(REPORT.parent / "curves.png", dpi=120, bbox_inches="tight")
