"""int8 models in transformers: quantizing while loading, saving, adapting, training."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import kq_hf
from kq_hf import KqConfig, coverage, inspect_checkpoint, lora, prepare_for_training
from kq_hf.checkpoint import load_model
from kq_nn import Linear8bitLt


@pytest.fixture(scope="session")
def int8_llama(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """Folder of the Llama in int8."""
    folder = tmp_path_factory.mktemp("int8") / "model"
    kq_hf.quantize_checkpoint(llama, folder, KqConfig("int8", threshold=4.0))
    return folder


@pytest.fixture
def model(int8_llama: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(int8_llama)


def int8_layers(model: torch.nn.Module) -> dict[str, Linear8bitLt]:
    return {n: m for n, m in model.named_modules() if isinstance(m, Linear8bitLt)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_quantizes_each_weight_as_the_layer_does(llama: Path, dtype: str) -> None:
    dense = AutoModelForCausalLM.from_pretrained(llama, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(
        llama, quantization_config=KqConfig("int8", threshold=5.0), dtype=dtype
    )
    layers = int8_layers(model)
    assert len(layers) == 14
    for name, layer in layers.items():
        expected = Linear8bitLt.from_linear(dense.get_submodule(name)).state_dict()
        assert layer.threshold == 5.0
        for key, tensor in layer.state_dict().items():
            assert tensor.dtype == expected[key].dtype
            assert torch.equal(tensor, expected[key]), (name, key)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_reloaded_model_has_the_same_logits(
    llama: Path, tmp_path: Path, ids: torch.Tensor, dtype: str, shard: str
) -> None:
    options = {"quantization_config": KqConfig("int8", threshold=3.0), "dtype": dtype}
    model = AutoModelForCausalLM.from_pretrained(llama, **options)
    model.save_pretrained(tmp_path / "a", max_shard_size=shard)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=dtype)
    assert {layer.threshold for layer in int8_layers(again).values()} == {3.0}
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert coverage(again) == coverage(model)
    report = inspect_checkpoint(tmp_path / "a")
    assert report.formats == {"format version 1, int8, one scale a row, plain scales": 14}
    assert report.coverage.bytes_after == coverage(model).bytes_after
    assert report.coverage.quantized_parameters == coverage(model).quantized_parameters


def test_a_program_without_kq_cannot_take_codes_for_weights(
    int8_llama: Path, tmp_path: Path
) -> None:
    """As if kq_hf had not been imported: transformers skips what it does not know."""
    for file in int8_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "never heard of"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_offload_to_disk(int8_llama: Path, tmp_path: Path, ids: torch.Tensor) -> None:
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    offloaded = AutoModelForCausalLM.from_pretrained(
        int8_llama, device_map=places, offload_folder=tmp_path
    )
    here = AutoModelForCausalLM.from_pretrained(int8_llama)
    assert torch.equal(offloaded(ids).logits, here(ids).logits)


def test_generates(model: PreTrainedModel, ids: torch.Tensor) -> None:
    model.eval()
    written = model.generate(ids[:1], max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert written.shape == (1, 24)


def test_dequantize_gives_the_dense_model(int8_llama: Path) -> None:
    layers = int8_layers(load_model(int8_llama))
    dense = load_model(int8_llama).dequantize()
    assert not int8_layers(dense)
    for name, layer in layers.items():
        assert torch.equal(dense.get_submodule(name).weight, layer.dequantize())


def adapted(model: PreTrainedModel, **options: object) -> PeftModel:
    config = lora.register(LoraConfig(r=4, target_modules="all-linear", **options))
    peft_model = get_peft_model(model, config)
    for key, parameter in peft_model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    return peft_model.eval()


def test_only_adapters_learn(model: PreTrainedModel, ids: torch.Tensor) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    peft_model = adapted(prepare_for_training(model)).train()
    assert sum(isinstance(m, lora.LoraLinear) for m in peft_model.modules()) == 14
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], 1.0)
    losses = []
    for _ in range(5):
        loss = peft_model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, value in peft_model.unload().state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("use_dora", [False, True])
def test_merging_quantizes_the_sum_once_and_unmerging_restores_every_bit(
    model: PreTrainedModel, ids: torch.Tensor, use_dora: bool
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    peft_model = adapted(model, use_dora=use_dora)
    logits = peft_model(ids).logits
    peft_model.merge_adapter()
    assert not torch.equal(peft_model(ids).logits, logits)
    peft_model.unmerge_adapter()
    assert torch.equal(peft_model(ids).logits, logits)
    merged, report = lora.merge_and_unload(peft_model)
    assert len(report.layers) == 14
    # Rounding to 127 steps: far below what it costs in 4 bits.
    assert report.worst_of_weight < 0.02
    for name, layer in int8_layers(merged).items():
        assert not torch.equal(layer.weight, before[f"{name}.weight"])
        assert layer.threshold == 4.0


def test_trainer_trains_adapters_and_resumes(
    int8_llama: Path, tmp_path: Path, ids: torch.Tensor
) -> None:
    rows = [{"input_ids": row, "labels": row} for row in ids.repeat(8, 1)]

    def trained(folder: Path, resume: bool, steps: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        base = prepare_for_training(AutoModelForCausalLM.from_pretrained(int8_llama))
        peft_model = get_peft_model(
            base, lora.register(LoraConfig(r=4, target_modules="all-linear"))
        )
        trainer = Trainer(
            peft_model,
            TrainingArguments(
                str(folder),
                max_steps=steps,
                save_steps=2,
                per_device_train_batch_size=2,
                lr_scheduler_type="constant",
                report_to="none",
                use_cpu=True,
                seed=0,
            ),
            train_dataset=rows,
            optimizer_cls_and_kwargs=kq_hf.optimizer_cls_and_kwargs(lr=1e-2),
        )
        trainer.train(resume_from_checkpoint=resume)
        return {n: p.detach() for n, p in peft_model.named_parameters() if p.requires_grad}

    whole = trained(tmp_path / "whole", resume=False, steps=4)
    trained(tmp_path / "parts", resume=False, steps=2)
    resumed = trained(tmp_path / "parts", resume=True, steps=4)
    assert whole.keys() == resumed.keys()
    for name, parameter in whole.items():
        assert torch.equal(parameter, resumed[name]), name


@pytest.fixture
def foreign(int8_llama: Path, tmp_path: Path) -> Path:
    kq_hf.export_bitsandbytes(int8_llama, tmp_path / "foreign")
    return tmp_path / "foreign"


def test_export_has_the_names_of_bitsandbytes(int8_llama: Path, foreign: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (int8_llama, foreign))
    layer = "model.layers.0.mlp.up_proj"
    assert torch.equal(theirs[f"{layer}.weight"], ours[f"{layer}.weight"].squeeze(-1))
    assert theirs[f"{layer}.SCB"].dtype == torch.float32
    assert torch.equal(theirs[f"{layer}.SCB"].view(torch.int32), ours[f"{layer}.weight_absmax"])
    assert theirs[f"{layer}.weight_format"].dtype == torch.uint8
    assert theirs[f"{layer}.weight_format"].shape == ()
    assert not any("absmax" in name for name in theirs)
    stored = json.loads((foreign / "config.json").read_text())["quantization_config"]
    assert stored["quant_method"] == "bitsandbytes"
    assert stored["load_in_8bit"] is True
    assert stored["llm_int8_threshold"] == 4.0
    assert stored["llm_int8_skip_modules"] == ["lm_head"]
    assert (foreign / "tokenizer.json").is_file()
    assert inspect_checkpoint(foreign).formats == {"bitsandbytes, int8, one scale a row": 14}
    found, expected = inspect_checkpoint(foreign), inspect_checkpoint(int8_llama)
    assert found.coverage.quantized_parameters == expected.coverage.quantized_parameters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_foreign_checkpoint_becomes_a_kq_model(
    int8_llama: Path, foreign: Path, tmp_path: Path, ids: torch.Tensor, dtype: str
) -> None:
    expected = load_model(int8_llama, dtype=dtype)
    model = load_model(foreign, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert torch.equal(model(ids).logits, expected(ids).logits)
    assert model.state_dict().keys() == expected.state_dict().keys()
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(load_model(tmp_path / "again", dtype=dtype)(ids).logits, model(ids).logits)
    assert coverage(model) == coverage(expected)


def test_foreign_checkpoint_in_shards_and_without_head(
    make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path, ids: torch.Tensor
) -> None:
    make_llama(attention_bias=True).save_pretrained(tmp_path / "dense")
    model = load_model(tmp_path / "dense", quantization_config=KqConfig("int8"))
    model.save_pretrained(tmp_path / "int8", max_shard_size="60KB")
    kq_hf.export_bitsandbytes(tmp_path / "int8", tmp_path / "foreign")
    assert len(list((tmp_path / "foreign").glob("*.safetensors"))) > 1
    again = load_model(tmp_path / "foreign")
    assert torch.equal(again(ids).logits, model(ids).logits)
    config = kq_hf.adopt_config(LlamaConfig.from_pretrained(tmp_path / "foreign"))
    base = type(model.model).from_pretrained(tmp_path / "foreign", config=config)
    assert torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)


def changed_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_list_of_dense_modules_that_does_not_fit_the_checkpoint_is_refused(foreign: Path) -> None:
    """A dense layer would take the codes of another list for its weight."""
    changed_config(foreign, llm_int8_skip_modules=["lm_head", "down_proj"])
    with pytest.raises(ValueError, match=r"down_proj is in int8 in the checkpoint alone"):
        load_model(foreign)
    changed_config(foreign, llm_int8_skip_modules=["nothing"])
    with pytest.raises(ValueError, match=r"lm_head is in int8 in the model alone"):
        load_model(foreign)


def test_what_kq_does_not_read_of_bitsandbytes_is_refused(foreign: Path) -> None:
    changed_config(foreign, load_in_8bit=False, load_in_4bit=True)
    with pytest.raises(ValueError, match="in int8 only"):
        load_model(foreign)


def test_adopting_leaves_other_configs_alone(llama: Path, int8_llama: Path) -> None:
    for folder in (llama, int8_llama):
        config = LlamaConfig.from_pretrained(folder)
        assert kq_hf.adopt_config(config) is config


def test_export_refuses_what_bitsandbytes_cannot_hold(
    llama: Path, quantized: Path, tmp_path: Path
) -> None:
    for source in (llama, quantized):
        with pytest.raises(ValueError, match="not an int8 model of kq"):
            kq_hf.export_bitsandbytes(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
