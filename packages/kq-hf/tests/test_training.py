from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

import kq_optim
from kq_hf import OPTIMIZERS, lora, optimizer_cls_and_kwargs, prepare_for_training


def trainer(quantized: Path, folder: Path, steps: int) -> Trainer:
    torch.manual_seed(0)
    base = prepare_for_training(AutoModelForCausalLM.from_pretrained(quantized))
    config = lora.register(LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = torch.randint(1, 300, (12, 16), generator=torch.Generator().manual_seed(5))
    return Trainer(
        model=get_peft_model(base, config),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            save_steps=3,
            per_device_train_batch_size=2,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            lr_scheduler_type="constant",
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        # 512 values at least in 8 bits: the adapters of this model are small.
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs("adamw8bit", lr=1e-2, min_8bit_size=256),
    )


def adapter(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def test_trainer_resumes_bit_identically(quantized: Path, tmp_path: Path) -> None:
    unbroken = trainer(quantized, tmp_path / "unbroken", 6)
    unbroken.train()
    trainer(quantized, tmp_path / "broken", 6).train()  # leaves checkpoint-3 and checkpoint-6
    resumed = trainer(quantized, tmp_path / "broken", 6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / "checkpoint-3"))
    expected = adapter(unbroken.model)
    assert expected
    for name, value in adapter(resumed.model).items():
        assert torch.equal(value, expected[name]), name
    losses = [
        [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        for run in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]
    states = resumed.optimizer.optimizer.state.values()
    # Trap: torch casts optimizer state to the dtype of the parameter when it loads it.
    assert any(entry["state1"].dtype == torch.uint8 for entry in states)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_by_name(name: str) -> None:
    cls, options = optimizer_cls_and_kwargs(name, lr=0.5, weight_decay=1e-3)
    optimizer = cls([torch.nn.Parameter(torch.zeros(2))], **options)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 1e-3
    assert type(optimizer).__name__.lower() == name


def test_every_family_has_a_name() -> None:
    families = ["adagrad", "adam", "adamw", "ademamix", "lamb", "lars", "lion", "rmsprop", "sgd"]
    forms = [
        f"{placed}{family}{bits}"
        for family in families
        for placed in ("", "paged")
        for bits in ("", "8bit", "32bit")
    ]
    assert sorted(forms) == sorted(OPTIMIZERS)
    assert OPTIMIZERS["pagedadamw8bit"] is kq_optim.PagedAdamW8bit


def test_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown optimizer 'sgdm'.*adamw8bit"):
        optimizer_cls_and_kwargs("sgdm", lr=0.1)
