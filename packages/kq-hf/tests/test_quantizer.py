import ctypes
import json
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaForCausalLM

from kq_hf import KqConfig, KqQuantizer, coverage
from kq_nn import Linear4bit


def load(folder: Path, config: KqConfig | dict[str, object] | None = None, **options: object):
    if config is not None:  # an explicit None would make transformers forget the stored config
        options["quantization_config"] = config
    return AutoModelForCausalLM.from_pretrained(folder, **options)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_quantizes_each_weight_as_the_layer_does(
    llama: Path, quant_type: str, double_quant: bool
) -> None:
    dense = load(llama)
    config = KqConfig(quant_type, 32, double_quant)
    model = load(llama, config)
    for name, module in dense.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            expected = Linear4bit.from_linear(
                module, quant_type=quant_type, blocksize=32, compress_statistics=double_quant
            )
            found = model.get_submodule(name).state_dict()
            assert found.keys() == expected.state_dict().keys()
            for key, tensor in expected.state_dict().items():
                assert torch.equal(found[key], tensor), (name, key)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_reloaded_model_has_the_same_logits(
    llama: Path, tmp_path: Path, ids: torch.Tensor, dtype: str, shard: str
) -> None:
    model = load(llama, KqConfig(), dtype=dtype)
    model.save_pretrained(tmp_path / "a", max_shard_size=shard)
    again = load(tmp_path / "a", dtype=dtype)
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert again.dtype == getattr(torch, dtype)
    again.save_pretrained(tmp_path / "b")
    assert torch.equal(load(tmp_path / "b", dtype=dtype)(ids).logits, model(ids).logits)


def test_dict_serves_as_config(llama: Path, ids: torch.Tensor) -> None:
    model = load(llama, {"quant_method": "kq", "blocksize": 32})
    assert torch.equal(model(ids).logits, load(llama, KqConfig(blocksize=32))(ids).logits)


def test_config_of_a_loaded_model_loads_another(quantized: Path, ids: torch.Tensor) -> None:
    model = load(quantized)
    again = AutoModelForCausalLM.from_pretrained(quantized, config=model.config)
    assert torch.equal(model(ids).logits, again(ids).logits)


def test_tied_head_stays_dense_and_tied(
    tied_llama: Path, tmp_path: Path, ids: torch.Tensor
) -> None:
    model = load(tied_llama, KqConfig())
    model.save_pretrained(tmp_path / "q")
    again = load(tmp_path / "q")
    for loaded in (model, again):
        assert type(loaded.lm_head) is torch.nn.Linear
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(model(ids).logits, again(ids).logits)


def test_patterns_leave_modules_dense_after_reloading_too(llama: Path, tmp_path: Path) -> None:
    config = KqConfig(modules_to_not_convert=["down_proj", "model.layers.1"])
    model = load(llama, config)
    assert config.modules_to_not_convert == ["down_proj", "model.layers.1"]  # not changed
    assert model.config.quantization_config.modules_to_not_convert == [
        "down_proj",
        "lm_head",  # the defaults stay in force beside a list of one's own
        "model.layers.1",
    ]
    model.save_pretrained(tmp_path / "q")
    for loaded in (model, load(tmp_path / "q")):
        names = {n for n, m in loaded.named_modules() if isinstance(m, Linear4bit)}
        first = "model.layers.0."
        attention = {f"{first}self_attn.{letter}_proj" for letter in "qkvo"}
        assert names == {*attention, f"{first}mlp.gate_proj", f"{first}mlp.up_proj"}


def test_pattern_that_matches_nothing_is_warned_about(llama: Path, tmp_path: Path) -> None:
    config = KqConfig(modules_to_not_convert=["layers.1", "down_proj"])
    with pytest.warns(
        UserWarning, match="'layers.1' matches no module of LlamaForCausalLM"
    ) as seen:
        model = load(llama, config)
    assert not any("down_proj" in str(warning.message) for warning in seen)
    model.save_pretrained(tmp_path / "q")
    with warnings.catch_warnings():  # said once, not at every loading
        warnings.simplefilter("error", UserWarning)
        load(tmp_path / "q")


def test_model_without_head_loads_from_a_checkpoint_with_one(
    quantized: Path, ids: torch.Tensor
) -> None:
    full, base = load(quantized), AutoModel.from_pretrained(quantized)
    assert torch.equal(base(ids).last_hidden_state, full.model(ids).last_hidden_state)


def test_encoder(bert: Path, tmp_path: Path, ids: torch.Tensor) -> None:
    model = AutoModel.from_pretrained(bert, quantization_config=KqConfig())
    model.save_pretrained(tmp_path / "q")
    again = AutoModel.from_pretrained(tmp_path / "q")
    assert torch.equal(model(ids).last_hidden_state, again(ids).last_hidden_state)
    assert isinstance(model.encoder.layer[0].attention.self.query, Linear4bit)


def test_coverage_counts_every_parameter_once(tied_llama: Path, tmp_path: Path) -> None:
    dense = load(tied_llama)
    model = load(tied_llama, KqConfig())
    report = coverage(model)
    assert report == model.hf_quantizer.report
    parameters = sum(p.numel() for p in dense.parameters())
    assert report.total_parameters == parameters
    assert report.quantized_parameters == parameters - sum(
        p.numel() for p in model.parameters() if p.is_floating_point()
    )
    assert report.bytes_before == 4 * parameters
    assert report.bytes_after == sum(p.nbytes for p in model.parameters())
    reasons = {record.name: record.reason for record in report.skipped}
    assert reasons["lm_head"] == "matches skip pattern 'lm_head'"
    assert "Embedding" in reasons["model.embed_tokens"]
    assert "bits per weight" in str(report)
    model.save_pretrained(tmp_path / "q")
    assert coverage(load(tmp_path / "q")) == report


def test_dequantize_gives_the_dense_model_that_was_computed_with(
    quantized: Path, ids: torch.Tensor
) -> None:
    model = load(quantized)
    logits = model(ids).logits
    dense = load(quantized).dequantize()
    assert not any(isinstance(module, Linear4bit) for module in dense.modules())
    assert not hasattr(dense.config, "quantization_config")
    # Both multiply by the same float32 weights and differ only by the order of summation: at
    # most K eps relative to sum |x||w|, through 2 layers; logits are of the order of 1.
    torch.testing.assert_close(dense(ids).logits, logits, atol=96 * 2**-23 * 8, rtol=0)


def test_offload_to_disk(llama: Path, tmp_path: Path, ids: torch.Tensor) -> None:
    here = load(llama, KqConfig())
    here.save_pretrained(tmp_path / "q")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    folder = {"device_map": places, "offload_folder": tmp_path / "offload"}
    assert torch.equal(load(tmp_path / "q", **folder)(ids).logits, here(ids).logits)
    with pytest.raises(ValueError, match="device_map offloads modules to disk"):
        load(llama, KqConfig(), **folder)


def test_foreign_format_is_refused(quantized: Path, tmp_path: Path) -> None:
    folder = copy_of(quantized, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["format"] = "fp4"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"does not fit model\.layers\.0.*nf4.*fp4"):
        load(folder)


def test_missing_scales_are_refused(quantized: Path, tmp_path: Path) -> None:
    folder = copy_of(quantized, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    broken = "model.layers.0.mlp.up_proj.weight_format"
    del tensors[broken]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"does not fit model\.layers\.0\.mlp\.up_proj"):
        load(folder)


def test_quantizer_says_what_it_can_do(quantized: Path) -> None:
    quantizer = load(quantized).hf_quantizer
    assert isinstance(quantizer, KqQuantizer)
    assert quantizer.is_serializable()
    assert quantizer.is_trainable


def test_peak_memory_is_one_tensor_above_the_quantized_model(
    llama: Path, make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> None:
    make_llama(hidden_size=512, intermediate_size=2048, num_hidden_layers=4).save_pretrained(
        tmp_path
    )
    load(llama, KqConfig())  # whatever is made once per process
    with PeakMemory() as memory:
        model = load(tmp_path, KqConfig())
    report = coverage(model)
    largest = 512 * 2048 * 4
    assert memory.peak > report.quantized_bytes_after  # it was measured at all
    # Above the finished model there may be the dense tensor that is being quantized (one that is
    # read as it is stays in the mapped file and does not even count here), and its codes and
    # scales before the model has them, about 1/8 of it. The rest of a second tensor's size is
    # for what Python and the allocator round up. All the dense tensors would be 15 of these.
    assert memory.peak < report.bytes_after + 2 * largest
    assert report.bytes_before > report.bytes_after + 12 * largest


class PeakMemory:
    """Growth of the anonymous memory of this process, sampled every half millisecond."""

    def __enter__(self) -> "PeakMemory":
        # What was freed before and is kept by the allocator would hide what is needed now.
        ctypes.CDLL(None).malloc_trim(0)
        self._start, self._highest = self._now(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = self._highest - self._start

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._highest = max(self._highest, self._now())
            time.sleep(0.0005)

    @staticmethod
    def _now() -> int:
        status = Path("/proc/self/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024


def copy_of(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
