import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM
from typer.testing import CliRunner, Result

from kq_cli.app import app
from kq_hf import KqConfig, outliers
from kq_hf.outlier_picture import draw_outliers


def kq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def loud(llama: Path, tmp_path: Path) -> Path:
    """The Llama with a normalization that makes feature 5 of the first MLP's input large."""
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.layers[0].post_attention_layernorm.weight[5] = 1000.0
    model.save_pretrained(tmp_path / "loud")
    for file in llama.glob("tokenizer*"):
        (tmp_path / "loud" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "loud"


@pytest.mark.parametrize("quantize", [False, True])
def test_counts_what_reaches_the_threshold(loud: Path, ids: torch.Tensor, quantize: bool) -> None:
    options = {"quantization_config": KqConfig("int8")} if quantize else {}
    model = AutoModelForCausalLM.from_pretrained(loud, **options).train()
    seen: list[torch.Tensor] = []
    layer = model.model.layers[0].mlp.up_proj
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    found = {record.name: record for record in outliers(model, ids, threshold=3.0)}
    hook.remove()
    assert model.training
    assert not layer._forward_pre_hooks
    assert len(found) == 15  # the head, too
    x = torch.cat(seen).flatten(0, -2).abs()
    record = found["model.layers.0.mlp.up_proj"]
    assert record.tokens == len(x) == ids.numel()
    assert torch.equal(record.counts, (x >= 3.0).sum(0))
    assert torch.equal(record.largest, x.amax(0))
    assert 5 in record.features
    assert record.kind == "up_proj"
    assert record.share == float((x >= 3.0).double().mean())
    # gate_proj has the same input
    assert torch.equal(found["model.layers.0.mlp.gate_proj"].counts, record.counts)


def test_threshold_is_inclusive_and_nan_does_not_count() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(5, 2)
            self.device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            below = torch.tensor(6.0).nextafter(torch.tensor(0.0)).item()
            self.layer(torch.empty(0, 5))
            return self.layer(torch.tensor([[6.0, below, -6.0, torch.nan, -torch.inf]]))

    (record,) = outliers(Fixed(), torch.ones(3, 4, dtype=torch.int64))
    assert record.counts.tolist() == [3, 0, 3, 0, 3]
    assert record.tokens == 3
    assert record.largest[4] == torch.inf
    assert record.largest[3] == 0


def test_bad_arguments(llama: Path, ids: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    with pytest.raises(ValueError, match="threshold must be positive, got 0"):
        outliers(model, ids, threshold=0)
    with pytest.raises(ValueError, match="Embedding has no linear layer"):
        outliers(torch.nn.Embedding(3, 3), ids)


def test_encoder(bert: Path, ids: torch.Tensor) -> None:
    found = outliers(AutoModel.from_pretrained(bert), ids, threshold=1.0)
    assert len(found) == 13
    assert any(record.features for record in found)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_command(loud: Path, text_file: Path, tmp_path: Path, suffix: str) -> None:
    picture, figures = tmp_path / f"outliers{suffix}", tmp_path / "outliers.json"
    options = ["--length", 32, "--tokens", 128, "--threshold", 4, "--top", 3]
    result = kq(
        *("outliers", loud, "--text", text_file, "--picture", picture, "--json", figures), *options
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert "up_proj" in result.stdout
    assert "model.layers.0.mlp.gate_proj" in result.stdout
    assert picture.stat().st_size > 1000
    stored = json.loads(figures.read_text())
    assert stored["tokens"] == 128
    (layer,) = (x for x in stored["layers"] if x["name"] == "model.layers.0.mlp.up_proj")
    assert 5 in [outlier["feature"] for outlier in layer["outliers"]]
    assert not list(tmp_path.glob(".*"))


def test_picture_without_outliers(llama: Path, ids: torch.Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    draw_outliers(outliers(model, ids, threshold=1e6), 1e6, tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 1000


def test_picture_that_cannot_be_made_is_refused_before_any_work(
    llama: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = kq("outliers", llama, "--text", text_file, "--picture", tmp_path / "a.gif")
    assert result.exit_code == 2
    assert "must be a file in .png, .svg, .pdf" in " ".join(result.stderr.split())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = kq("outliers", llama, "--text", text_file, "--picture", tmp_path / "a.png")
    assert result.exit_code == 2
    assert "kq-hf[plot]" in result.stderr
