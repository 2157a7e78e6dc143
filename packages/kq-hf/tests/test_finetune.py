import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kq_hf import FinetuneResult, Finetuning, finetune

SETTINGS = Finetuning(steps=12, batch_size=2, lr=1e-2, dropout=0.1, rank=4)


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randint(1, 300, (7, 16), generator=torch.Generator().manual_seed(2))


def run(
    quantized: Path,
    rows: torch.Tensor,
    out: Path,
    settings: Finetuning = SETTINGS,
    stop_after: int | None = None,
) -> FinetuneResult:
    """A run in a fresh model, cut off after some steps if asked for."""

    def on_step(done: int, _loss: float) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    torch.manual_seed(99)  # a process of its own would not have our random state
    model = AutoModelForCausalLM.from_pretrained(quantized)
    return finetune(model, rows, out, settings, save_every=5, on_step=on_step)


def test_interrupted_run_ends_as_an_unbroken_one(
    quantized: Path, rows: torch.Tensor, tmp_path: Path
) -> None:
    unbroken = run(quantized, rows, tmp_path / "unbroken")
    for stop in (3, 7, 11):  # before the first checkpoint, and after each
        with pytest.raises(KeyboardInterrupt):
            run(quantized, rows, tmp_path / "broken", stop_after=stop)
        assert not (tmp_path / "broken").exists()
    assert (tmp_path / "broken.checkpoint").is_file()
    resumed = run(quantized, rows, tmp_path / "broken")
    assert resumed.resumed_from == 10
    assert resumed.losses == unbroken.losses
    assert resumed.losses[-1] < resumed.losses[0]
    assert not (tmp_path / "broken.checkpoint").exists()
    weights = [
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("unbroken", "broken")
    ]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        assert torch.equal(weights[1][key], value), key
    assert list(tmp_path.glob(".*")) == []  # no temporary names are left


def test_finished_run_is_not_repeated(quantized: Path, rows: torch.Tensor, tmp_path: Path) -> None:
    first = run(quantized, rows, tmp_path / "out")
    (tmp_path / "out.checkpoint").write_text("left behind by a kill after the last rename")
    again = run(quantized, rows, tmp_path / "out", stop_after=1)
    assert again.losses == first.losses
    assert again.resumed_from == SETTINGS.steps
    assert not (tmp_path / "out.checkpoint").exists()


def test_adapter_is_an_ordinary_one(quantized: Path, rows: torch.Tensor, tmp_path: Path) -> None:
    result = run(quantized, rows, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(quantized)
    before = base(input_ids=rows, labels=rows).loss
    adapted = PeftModel.from_pretrained(base, result.adapter)
    assert adapted(input_ids=rows, labels=rows).loss < before
    assert result.tokens == 12 * 2 * 16
    assert result.trainable_parameters == adapted.get_nb_trainable_parameters()[1] - sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(quantized).parameters()
    )


def test_result_of_another_run_is_not_overwritten(
    quantized: Path, rows: torch.Tensor, tmp_path: Path
) -> None:
    run(quantized, rows, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"another run: lr 0\.01 instead of 0\.02"):
        run(quantized, rows, tmp_path / "out", Finetuning(**{**vars(SETTINGS), "lr": 2e-2}))
    with pytest.raises(FileExistsError, match="another run: another text"):
        run(quantized, rows.flip(0), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="not an adapter made by kq"):
        run(quantized, rows, tmp_path / "mine")


def test_checkpoint_of_another_run_is_refused(
    quantized: Path, llama: Path, rows: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(quantized, rows, tmp_path / "out", stop_after=6)
    with pytest.raises(ValueError, match=r"another run: seed 0 instead of 1; delete .*checkpoint"):
        run(quantized, rows, tmp_path / "out", Finetuning(**{**vars(SETTINGS), "seed": 1}))
    with pytest.raises(ValueError, match="of another run: another model"):
        run(llama, rows, tmp_path / "out")


def test_checkpoint_of_other_weights_is_refused(
    quantized: Path, rows: torch.Tensor, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(quantized, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] ^= 1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(KeyboardInterrupt):
        run(quantized, rows, tmp_path / "out", stop_after=6)
    with pytest.raises(ValueError, match="of another run: another model"):
        run(other, rows, tmp_path / "out")


def test_damaged_checkpoint_is_refused(quantized: Path, rows: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "out.checkpoint").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"cannot read .*checkpoint .*delete"):
        run(quantized, rows, tmp_path / "out")


def test_diverging_run_stops(quantized: Path, rows: torch.Tensor, tmp_path: Path) -> None:
    settings = Finetuning(steps=12, batch_size=2, lr=1e30)
    with pytest.raises(FloatingPointError, match="the loss of step"):
        run(quantized, rows, tmp_path / "out", settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be positive"),
        ({"steps": 0}, "steps must be positive"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"optim": "sgdm"}, "optim must be one of .*adam, .*'sgdm'"),
    ],
)
def test_bad_setting_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Finetuning(**changes)


def test_bad_save_every_is_named(quantized: Path, rows: torch.Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(quantized)
    with pytest.raises(ValueError, match="save_every must be at least 1"):
        finetune(model, rows, tmp_path / "out", SETTINGS, save_every=0)


def test_every_row_comes_once_in_each_pass() -> None:
    settings = Finetuning(batch_size=3)
    drawn = [row for step in range(7) for row in settings.rows_at(step, 7)]
    for start in (0, 7, 14):
        assert sorted(drawn[start : start + 7]) == list(range(7))
    assert drawn[:7] != drawn[7:14]


def test_learning_rate_rises_and_falls() -> None:
    settings = Finetuning(steps=100, lr=1.0)
    rates = [settings.lr_at(step) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] > 0
    assert Finetuning(steps=1).lr_at(0) == 2e-4
