"""Kept columns of int8 models: found on a text, quantized with, saved, loaded, refused."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner, Result

from kq_cli.app import app
from kq_hf import (
    KqConfig,
    LayerOutliers,
    coverage,
    export_bitsandbytes,
    inspect_checkpoint,
    lora,
    outlier_columns,
    outliers,
    quantize_checkpoint,
)
from kq_hf.checkpoint import load_model
from kq_hf.outlier_file import read_outliers, to_dict
from kq_nn import Linear8bitLt

UP = "model.layers.0.mlp.up_proj"
DOWN = "model.layers.1.mlp.down_proj"
KEPT = {UP: [5, 1], DOWN: [7], "lm_head": [3]}


def kq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """Folder of the Llama in int8 with kept columns."""
    folder = tmp_path_factory.mktemp("kept") / "model"
    quantize_checkpoint(llama, folder, KqConfig("int8", kept_columns=KEPT))
    return folder


def kept_of(model: torch.nn.Module) -> dict[str, list[int]]:
    return {
        name: layer.weight_kept_columns.tolist()
        for name, layer in model.named_modules()
        if isinstance(layer, Linear8bitLt) and layer.kept_columns
    }


def config_of(folder: Path) -> dict[str, object]:
    stored = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert isinstance(stored, dict)
    return stored


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantizes_as_the_layers_do(llama: Path, dtype: str) -> None:
    dense = AutoModelForCausalLM.from_pretrained(llama, dtype=dtype)
    config = KqConfig("int8", threshold=5.0, kept_columns=KEPT)
    model = AutoModelForCausalLM.from_pretrained(llama, quantization_config=config, dtype=dtype)
    assert kept_of(model) == {UP: [1, 5], DOWN: [7]}
    for name, layer in model.named_modules():
        if isinstance(layer, Linear8bitLt):
            columns = KEPT.get(name)
            linear = dense.get_submodule(name)
            expected = Linear8bitLt.from_linear(linear, kept_columns=columns).state_dict()
            assert layer.threshold == 5.0
            assert layer.state_dict().keys() == expected.keys()
            for key, tensor in layer.state_dict().items():
                assert torch.equal(tensor, expected[key]), (name, key)
    assert config.kept_columns == {**KEPT, UP: [1, 5]}  # the user's own is left alone


@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_saved_and_loaded_it_is_the_same(
    kept: Path, tmp_path: Path, ids: torch.Tensor, shard: str
) -> None:
    assert config_of(kept)["kept_columns"] == {UP: [1, 5], DOWN: [7]}  # no head: that is dense
    model = load_model(kept)
    assert kept_of(model) == {UP: [1, 5], DOWN: [7]}
    model.save_pretrained(tmp_path / "again", max_shard_size=shard)
    again = load_model(tmp_path / "again")
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert coverage(again) == coverage(model)
    assert config_of(tmp_path / "again") == config_of(kept)
    report = inspect_checkpoint(kept)
    assert report.coverage.quantized_bytes_after == coverage(model).quantized_bytes_after


def test_without_its_head(kept: Path, tmp_path: Path, ids: torch.Tensor) -> None:
    model, base = load_model(kept), AutoModel.from_pretrained(kept)
    names = {name.removeprefix("model."): columns for name, columns in kept_of(model).items()}
    assert kept_of(base) == names
    assert torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    assert config_of(tmp_path / "base")["kept_columns"] == names
    again = AutoModel.from_pretrained(tmp_path / "base")
    assert torch.equal(again(ids).last_hidden_state, base(ids).last_hidden_state)


def test_offload_to_disk(kept: Path, tmp_path: Path, ids: torch.Tensor) -> None:
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    offloaded = AutoModelForCausalLM.from_pretrained(
        kept, device_map=places, offload_folder=tmp_path
    )
    assert torch.equal(offloaded(ids).logits, load_model(kept)(ids).logits)


def adapted(model: PreTrainedModel) -> torch.nn.Module:
    peft_model = get_peft_model(
        model, lora.register(LoraConfig(r=4, target_modules="all-linear"))
    ).eval()
    for key, parameter in peft_model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    return peft_model


def test_merging_keeps_the_same_columns_of_the_sum(kept: Path) -> None:
    peft_model = adapted(load_model(kept))
    up = peft_model.get_submodule(f"base_model.model.{UP}")
    merged = up.base_layer.dequantize() + up.get_delta_weight("default")
    model, _ = lora.merge_and_unload(peft_model)
    assert kept_of(model) == {UP: [1, 5], DOWN: [7]}
    error = (model.get_submodule(UP).dequantize() - merged).abs()
    assert error[:, [1, 5]].max() < error.max() / 100


def test_checkpoint_without_the_tensors_that_its_config_names_is_refused(
    kept: Path, tmp_path: Path
) -> None:
    for file in kept.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["kept_columns"][DOWN] = [1, 2]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot load"):
        load_model(tmp_path)


def test_export_refuses_what_bitsandbytes_cannot_hold(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keeps columns of its weights"):
        export_bitsandbytes(kept, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_layer_is_refused(llama: Path) -> None:
    config = KqConfig("int8", kept_columns={"model.layers.9.q": [1]})
    with pytest.raises(ValueError, match=r"'model\.layers\.9\.q' is no linear layer"):
        load_model(llama, quantization_config=config)


def of_int8_layers(columns: dict[str, list[int]]) -> dict[str, list[int]]:
    """Without those of the head, which is left dense."""
    return {name: features for name, features in columns.items() if name != "lm_head"}


def test_columns_by_share_of_tokens() -> None:
    counts = torch.tensor([0, 1, 2, 100, 0])
    layers = [LayerOutliers(name, 100, counts * n, torch.ones(5)) for n, name in enumerate("ab")]
    assert outlier_columns(layers) == {"b": [1, 2, 3]}
    assert outlier_columns(layers, 0.02) == {"b": [2, 3]}
    assert outlier_columns(layers, 1) == {"b": [3]}
    assert outlier_columns(layers, 0) == {"b": [1, 2, 3]}
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share must be from 0 to 1"):
            outlier_columns(layers, share)


def test_records_survive_their_file(llama: Path, ids: torch.Tensor, tmp_path: Path) -> None:
    layers = outliers(load_model(llama), ids, threshold=2.0)
    file = tmp_path / "found.json"
    file.write_text(json.dumps(to_dict(layers, 2.0)))
    for found, layer in zip(read_outliers(file), layers, strict=True):
        assert (found.name, found.tokens) == (layer.name, layer.tokens)
        assert torch.equal(found.counts, layer.counts)
        assert torch.equal(found.largest, layer.largest * (layer.counts > 0))


def test_commands(llama: Path, text_file: Path, tmp_path: Path) -> None:
    found, model = tmp_path / "found.json", tmp_path / "int8"
    text = ["--text", text_file, "--length", 32, "--tokens", 128]
    result = kq("outliers", llama, *text, "--threshold", 2, "--json", found)
    assert result.exit_code == 0, result.output
    often, ever = (outlier_columns(read_outliers(found), share) for share in (0.01, 0.0))
    assert often != ever
    keep = ["--format", "int8", "--keep-outliers", found]
    result = kq("quantize", llama, tmp_path / "ever", *keep, "--keep-share", 0)
    assert kept_of(load_model(tmp_path / "ever")) == of_int8_layers(ever)
    result = kq("quantize", llama, model, *keep)
    assert result.exit_code == 0, result.output
    assert kept_of(load_model(model)) == of_int8_layers(often)
    assert kq("perplexity", model, "--text", text_file, "--length", 32).exit_code == 0
    result = kq("export", model, tmp_path / "foreign")
    assert result.exit_code == 2
    assert "keeps columns" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"layers": [{"name": "a"}]}',
        '{"layers": [{"name": "a", "features": 2, "tokens": "x", "outliers": []}]}',
        '{"layers": [{"name": "a", "features": -2, "tokens": 1, "outliers": []}]}',
        '{"layers": [{"name": "a", "features": 2, "tokens": 1, "outliers": [{"feature": -1}]}]}',
        '{"layers": [{"name": "a", "features": 2, "tokens": 1, "outliers": [{"feature": 1}]}]}',
        '{"layers": 3}',
        "\x80",
    ],
)
def test_another_file_is_refused(llama: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "found.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="is not what `kq outliers --json` writes"):
        read_outliers(file)
    result = kq("quantize", llama, tmp_path / "q", "--format", "int8", "--keep-outliers", file)
    assert result.exit_code == 2
    assert "is not what" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "q").exists()


def test_outliers_are_an_option_of_int8(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text('{"layers": []}')
    result = kq("quantize", llama, tmp_path / "q", "--keep-outliers", file)
    assert result.exit_code == 2
    assert "kept_columns is no option of the format nf4" in result.stderr
