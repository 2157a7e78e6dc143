from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora as peft_lora
from transformers import AutoModelForCausalLM, PreTrainedModel

from kq_hf import KqConfig, lora, prepare_for_training
from kq_nn import Linear4bit


@pytest.fixture
def model(quantized: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(quantized)


def adapted(model: PreTrainedModel, *, name: str = "default", **options: object) -> PeftModel:
    """The model with an adapter whose every value is random, so that it changes something."""
    config = lora.register(LoraConfig(r=4, target_modules="all-linear", **options))
    result = get_peft_model(model, config, adapter_name=name)
    randomize(result, name)
    return result.eval()


def randomize(model: PeftModel, name: str) -> None:
    for key, parameter in model.named_parameters():
        if f"lora_B.{name}" in key:
            torch.nn.init.normal_(parameter, std=0.02)
        elif "magnitude" in key:
            with torch.no_grad():
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))


def layers(model: torch.nn.Module) -> dict[str, lora.LoraLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, lora.LoraLinear)}


def test_all_linear_finds_every_4bit_layer_and_not_the_head(model: PreTrainedModel) -> None:
    count = sum(isinstance(module, Linear4bit) for module in model.modules())
    peft_model = adapted(model)
    assert len(layers(peft_model)) == count == 14
    assert not any(isinstance(m, peft_lora.LoraLayer) for m in peft_model.lm_head.modules())


def test_only_adapters_learn(model: PreTrainedModel, ids: torch.Tensor) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    peft_model = adapted(prepare_for_training(model))
    peft_model.train()
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], 1.0)
    losses = []
    for _ in range(5):
        loss = peft_model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    base = peft_model.unload()
    for key, value in base.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_gradient_checkpointing_changes_no_gradient(quantized: Path, ids: torch.Tensor) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(quantized)
        prepare_for_training(base, gradient_checkpointing=checkpointing)
        peft_model = adapted(base).train()
        assert base.is_gradient_checkpointing == checkpointing
        peft_model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in peft_model.named_parameters() if p.requires_grad})
    assert gradients[0]
    for name, gradient in gradients[0].items():
        # The recomputed activations are the same numbers.
        assert torch.equal(gradients[1][name], gradient), name


def test_checkpointing_is_refused_by_a_model_without_it(model: PreTrainedModel) -> None:
    model.supports_gradient_checkpointing = False
    with pytest.raises(ValueError, match="does not support"):
        prepare_for_training(model)


@pytest.mark.parametrize("use_dora", [False, True])
def test_saved_adapter_is_loaded_and_adopted(
    model: PreTrainedModel, quantized: Path, tmp_path: Path, ids: torch.Tensor, use_dora: bool
) -> None:
    peft_model = adapted(model, use_dora=use_dora)
    peft_model.save_pretrained(tmp_path, save_embedding_layers=False)
    base = AutoModelForCausalLM.from_pretrained(quantized)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    assert not layers(again)
    assert lora.adopt(again) == 14
    assert len(layers(again)) == 14
    assert lora.adopt(again) == 0
    assert torch.equal(again(ids).logits, peft_model(ids).logits)


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapter_acts_as_on_the_dense_weight(
    model: PreTrainedModel, quantized: Path, tmp_path: Path, ids: torch.Tensor, use_dora: bool
) -> None:
    peft_model = adapted(model, use_dora=use_dora)
    peft_model.save_pretrained(tmp_path, save_embedding_layers=False)
    dense = AutoModelForCausalLM.from_pretrained(quantized).dequantize()
    expected = PeftModel.from_pretrained(dense, tmp_path).eval()
    # The same float32 weights; sums in another order: K eps each, 2 layers, logits of order 1.
    torch.testing.assert_close(
        peft_model(ids).logits, expected(ids).logits, atol=96 * 2**-23 * 8, rtol=0
    )


@pytest.mark.parametrize("use_dora", [False, True])
def test_merge_quantizes_the_sum_once(
    model: PreTrainedModel, quantized: Path, tmp_path: Path, use_dora: bool
) -> None:
    peft_model = adapted(model, use_dora=use_dora)
    peft_model.save_pretrained(tmp_path, save_embedding_layers=False)
    dense = AutoModelForCausalLM.from_pretrained(quantized).dequantize()
    summed = PeftModel.from_pretrained(dense, tmp_path).merge_and_unload()
    before = {
        name: layer.get_base_layer().dequantize()
        for name, layer in layers(peft_model.get_base_model()).items()
    }
    merged, report = lora.merge_and_unload(peft_model)
    assert not any(isinstance(module, peft_lora.LoraLayer) for module in merged.modules())
    assert len(report.layers) == 14
    for name, error in report.layers.items():
        wanted = summed.get_submodule(name).weight.detach()
        layer = merged.get_submodule(name)
        assert isinstance(layer, Linear4bit)
        found = layer.dequantize()
        # The sums differ by rounding, which can move a value that lies on the border between two
        # codes: compare with the best any code could do, up to that rounding.
        again = Linear4bit.from_linear(summed.get_submodule(name)).dequantize()
        best = (again - wanted).norm()
        torch.testing.assert_close((found - wanted).norm(), best, rtol=1e-5, atol=0)
        assert error.of_weight == pytest.approx(float(best / wanted.norm()), rel=1e-4)
        change = (wanted - before[name]).norm()
        assert error.of_change == pytest.approx(float(best / change), rel=1e-4)
    assert report.worst_of_weight == max(error.of_weight for error in report.layers.values())
    assert report.worst_of_change == max(error.of_change for error in report.layers.values())
    assert f"merged {len(report.layers)} quantized layers" in str(report)


def test_merged_model_is_saved_and_reloaded(
    model: PreTrainedModel, tmp_path: Path, ids: torch.Tensor
) -> None:
    merged, _ = lora.merge_and_unload(adapted(model), safe_merge=True)
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, merged(ids).logits)


def test_unmerge_restores_every_bit(model: PreTrainedModel, ids: torch.Tensor) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    peft_model = adapted(model)
    logits = peft_model(ids).logits
    peft_model.merge_adapter()
    assert not torch.equal(peft_model(ids).logits, logits)
    assert all(layer.merge_error is not None for layer in layers(peft_model).values())
    peft_model.unmerge_adapter()
    assert torch.equal(peft_model(ids).logits, logits)
    assert all(layer.merge_error is None for layer in layers(peft_model).values())
    for key, value in peft_model.unload().state_dict().items():
        assert torch.equal(value, before[key]), key


def test_disabled_adapters_leave_the_base_model(
    model: PreTrainedModel, quantized: Path, ids: torch.Tensor
) -> None:
    peft_model = adapted(model)
    peft_model.merge_adapter()
    with peft_model.disable_adapter():
        logits = peft_model(ids).logits
    assert torch.equal(logits, AutoModelForCausalLM.from_pretrained(quantized)(ids).logits)


def test_order_of_merging_does_not_matter(quantized: Path) -> None:
    states = []
    for order in (["first", "second"], ["second", "first"]):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(quantized)
        peft_model = adapted(base, name="first")
        config = lora.register(LoraConfig(r=4, target_modules="all-linear", use_dora=True))
        peft_model.add_adapter("second", config)
        randomize(peft_model, "second")
        for name in order:  # one after the other
            peft_model.merge_adapter([name])
        peft_model.merge_adapter(order)  # merged already: nothing happens
        states.append(next(iter(layers(peft_model).values())).base_layer.dequantize())
    # The two sums may round differently, and so choose a neighboring code; nothing more.
    different = states[0] != states[1]
    assert different.float().mean() < 1e-3


def biased_llama(make: Callable[..., PreTrainedModel], folder: Path) -> PreTrainedModel:
    make(attention_bias=True, mlp_bias=True).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=KqConfig())


def test_bias_of_an_adapter_is_merged(
    make_llama: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    peft_model = adapted(biased_llama(make_llama, tmp_path), lora_bias=True)
    layer = next(iter(layers(peft_model).values()))
    torch.nn.init.normal_(layer.lora_B["default"].bias)
    before = layer.base_layer.bias.clone()
    layer.merge()
    change = layer.lora_B["default"].bias * layer.scaling["default"]
    assert torch.equal(layer.base_layer.bias, before + change)
    layer.unmerge()
    assert torch.equal(layer.base_layer.bias, before)


def test_bias_of_an_adapter_without_one_below_is_refused(model: PreTrainedModel) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"])
    peft_model = get_peft_model(model, lora.register(config))
    layer = next(iter(layers(peft_model).values()))
    layer.lora_bias["default"] = True
    layer.lora_B["default"] = torch.nn.Linear(4, layer.out_features, bias=True)
    with pytest.raises(ValueError, match="'default' has a bias, its base layer has none"):
        layer.merge()
    assert not layer.merged


def test_safe_merge_refuses_what_is_not_finite(model: PreTrainedModel) -> None:
    peft_model = adapted(model)
    layer = next(iter(layers(peft_model).values()))
    torch.nn.init.constant_(layer.lora_B["default"].weight, float("nan"))
    stored = layer.base_layer.weight
    with pytest.raises(ValueError, match="not finite"):
        layer.merge(safe_merge=True)
    assert layer.base_layer.weight is stored
    assert not layer.merged


def test_variant_that_cannot_be_merged_is_refused(model: PreTrainedModel) -> None:
    peft_model = adapted(model)
    layer = next(iter(layers(peft_model).values()))
    layer.lora_variant["default"] = object()
    with pytest.raises(ValueError, match="of the kind object"):
        layer.merge()


def test_adapter_that_adds_nothing_costs_only_the_second_quantization(
    model: PreTrainedModel,
) -> None:
    config = lora.register(LoraConfig(r=4, target_modules=["q_proj"]))
    peft_model = get_peft_model(model, config)  # lora_B is zero
    peft_model.merge_adapter()
    for layer in layers(peft_model).values():
        assert layer.merge_error is not None
        assert layer.merge_error.of_weight < 2**-5  # one step of an 8-bit scale
        assert layer.merge_error.of_change in (0.0, float("inf"))


def test_adopting_after_a_merge_is_refused(model: PreTrainedModel) -> None:
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    stock = next(m for m in peft_model.modules() if type(m) is peft_lora.Linear)
    stock.merged_adapters.append("default")
    with pytest.raises(ValueError, match=r"q_proj has merged adapters"):
        lora.adopt(peft_model)


def test_initialization_that_needs_the_dense_weight_is_refused(model: PreTrainedModel) -> None:
    config = lora.register(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"))
    with pytest.raises(TypeError, match="float"):
        get_peft_model(model, config)
