import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kq_hf import KqConfig, coverage, inspect_checkpoint, quantize_checkpoint
from kq_hf.checkpoint import load_model, load_tokenizer, model_folder
from kq_hf.files import new_folder, replaced_file


def test_quantized_folder_has_all_that_goes_with_the_model(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    (source / "notes").mkdir()
    (source / "notes" / "card.md").write_text("a note")
    (source / "pytorch_model.bin").write_text("other weights")
    quantize_checkpoint(source, tmp_path / "q", KqConfig())
    names = {str(file.relative_to(tmp_path / "q")) for file in (tmp_path / "q").rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "notes/card.md"} <= names
    assert "pytorch_model.bin" not in names
    assert load_tokenizer(tmp_path / "q")("the")["input_ids"]
    assert not list(tmp_path.glob(".*"))


def test_other_dtype_for_what_stays_dense(llama: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(llama, tmp_path / "q", KqConfig(), dtype="bfloat16")
    assert report.bytes_before == 2 * report.total_parameters
    assert inspect_checkpoint(tmp_path / "q").dtypes.keys() == {"BF16"}


def test_quantizing_refuses_what_makes_no_sense(
    llama: Path, quantized: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="lies in"):
        quantize_checkpoint(llama, llama / "nf4", KqConfig())
    with pytest.raises(ValueError, match=r"is quantized already \(kq\)"):
        quantize_checkpoint(quantized, tmp_path / "q", KqConfig())
    with pytest.raises(ValueError, match="no layer to quantize"):
        quantize_checkpoint(llama, tmp_path / "q", KqConfig(modules_to_not_convert=["model"]))
    with pytest.raises(FileExistsError, match="exists already"):
        quantize_checkpoint(llama, tmp_path, KqConfig())
    assert list(tmp_path.iterdir()) == []


def test_model_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        model_folder(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"has no config\.json"):
        model_folder(str(tmp_path))
    with pytest.raises(ValueError, match="not a folder, and not on the Hub"):
        model_folder("nobody/nothing")  # HF_HUB_OFFLINE is set


def test_model_with_missing_weights_is_refused(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "m")
    tensors = load_file(llama / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, for instance model\.norm\.weight"):
        load_model(tmp_path / "m")


def test_damaged_model_is_refused(llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(ValueError, match="cannot load"):
        load_model(tmp_path / "m")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        inspect_checkpoint(tmp_path / "m")
    config = json.loads((llama / "config.json").read_text()) | {"architectures": ["NoSuchModel"]}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no model class NoSuchModel"):
        load_model(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot load the tokenizer"):
        load_tokenizer(tmp_path / "m")


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_inspection_agrees_with_the_loaded_model(
    llama: Path, tmp_path: Path, double_quant: bool, shard: str
) -> None:
    model = load_model(llama, quantization_config=KqConfig("fp4", 32, double_quant))
    model.save_pretrained(tmp_path / "q", max_shard_size=shard)
    found, expected = inspect_checkpoint(tmp_path / "q"), coverage(model)
    for name in (
        "total_parameters",
        "quantized_parameters",
        "bytes_before",
        "bytes_after",
        "quantized_bytes_after",
        "bits_per_weight",
    ):
        assert getattr(found.coverage, name) == getattr(expected, name), name
    ((name, layers),) = found.formats.items()
    assert layers == 14
    assert "fp4, blocksize 32" in name
    assert ("double-quantized" in name) == double_quant
    assert found.files == len(list((tmp_path / "q").glob("*.safetensors")))
    assert found.dtypes == {
        "F32": sum(p.nbytes for p in model.parameters() if p.is_floating_point())
    }
    assert json.loads(json.dumps(found.to_dict()))["bits_per_parameter"] > 4


def test_inspection_of_a_dense_model_and_of_one_file(llama: Path) -> None:
    report = inspect_checkpoint(llama / "model.safetensors")
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(llama).parameters())
    assert report.coverage.total_parameters == parameters
    assert report.coverage.quantized_parameters == 0
    assert report.bits_per_parameter == 32
    assert report.formats == {}


def test_inspection_refuses_what_is_no_checkpoint(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no safetensors files"):
        inspect_checkpoint(tmp_path)
    tensors = load_file(quantized / "model.safetensors")
    broken = "model.layers.0.mlp.up_proj.weight_format"
    save_file({**tensors, broken: torch.zeros(5)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"the tensors of model\.layers\.0\.mlp\.up_proj do not fit"
    ):
        inspect_checkpoint(tmp_path)


def half_folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("stopped")


def half_file(path: Path) -> None:
    with replaced_file(path) as file:
        file.write_text("half")
        raise RuntimeError("stopped")


def test_unfinished_results_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        half_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError):
        half_file(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"


def test_finished_results_get_their_names(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with replaced_file(tmp_path / "file") as file:
        file.write_text("new")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "whole").write_text("x")
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
