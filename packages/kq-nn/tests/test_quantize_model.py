"""Whole models: what is replaced, what is not, and what the report says about it."""

import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from kq_nn import CoverageReport, Linear4bit, Linear8bitLt, SkippedModule, quantize_model


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up_proj = nn.Linear(width, 2 * width)
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return x + self.down_proj(self.up_proj(self.norm(x)).relu())


class Model(nn.Module):
    def __init__(self, width=64, depth=12, tie=True):
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.lm_head = nn.Linear(width, 50, bias=False)
        if tie:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def linears(model):
    return [name for name, module in model.named_modules() if type(module) is nn.Linear]


def test_every_linear_layer_is_replaced_and_the_model_still_works():
    torch.manual_seed(0)
    model = Model(tie=False).eval()
    tokens = torch.arange(8).reshape(2, 4)
    dense = model(tokens)
    report = quantize_model(model)
    assert linears(model) == []
    assert all(not module.training for module in model.modules())
    quantized = model(tokens)
    # NF4 keeps a weight within about 10 % of the rms; a broken conversion gives unrelated logits
    assert torch.nn.functional.cosine_similarity(quantized, dense, dim=-1).min() > 0.95
    assert report.quantized_parameters == 12 * (64 * 128 * 2) + 50 * 64


def test_report_adds_up():
    model = Model()
    parameters = sum(p.numel() for p in model.parameters())
    size = sum(p.nbytes for p in model.parameters())
    report = quantize_model(model)
    weights = 12 * 2 * 64 * 128
    assert report.total_parameters == parameters
    assert report.quantized_parameters == weights
    assert report.bytes_before == size
    assert report.bytes_after == sum(p.nbytes for p in model.parameters())
    assert report.total_parameters == weights + sum(s.parameters for s in report.skipped)
    assert report.quantized_bytes_before == 4 * weights
    # A layer of 8192 weights: half a byte each, 128 scales in 8 bits, one block of nested scales,
    # an offset and five header words.
    assert report.quantized_bytes_after == 24 * (4096 + 128 + 4 + 4 + 20)
    assert report.bits_per_weight == 8 * report.quantized_bytes_after / weights
    assert report.parameter_share == weights / parameters
    assert report.byte_share == 4 * weights / size
    reasons = {record.name: record.reason for record in report.skipped}
    assert reasons["embed"] == "not nn.Linear (Embedding)"
    assert reasons["lm_head"] == "tied to embed.weight"
    assert reasons["layers.0.norm"] == "not nn.Linear (LayerNorm)"
    assert reasons["layers.0.up_proj.bias"] == "bias of a quantized layer"


def test_tied_weights_stay_tied():
    model = Model()
    report = quantize_model(model)
    assert model.lm_head.weight is model.embed.weight
    assert type(model.lm_head) is nn.Linear
    head = next(record for record in report.skipped if record.name == "lm_head")
    assert head == SkippedModule("lm_head", "tied to embed.weight", 0)


def test_two_layers_that_share_a_weight_are_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    report = quantize_model(model)
    assert [record.reason for record in report.skipped] == ["tied to 1.weight", "tied to 0.weight"]
    assert report.total_parameters == 64 + 8 + 8


def test_one_layer_in_two_places_is_replaced_in_both():
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, shared)})
    report = quantize_model(model)
    assert isinstance(model["a"], Linear4bit)
    assert model["a"] is model["b"][0]
    assert model["a"] is model["b"][1]
    assert report.quantized_parameters == 64


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("down_proj", 12),  # suffix
        ("lm_head", 1),
        (r"layers\.1", 2),  # up to a dot: not layers.10 and layers.11
        ("layers", 24),
        (r"layers\.1[01]\.up_proj", 2),
        (r".*\.(up|down)_proj", 24),
        ("head", 1),  # a suffix need not start at a dot
        ("layers.0.", 2),
    ],
)
def test_skip_patterns(pattern, kept):
    model = Model(tie=False)
    report = quantize_model(model, skip=[pattern])
    assert len(linears(model)) == kept
    skipped = [s for s in report.skipped if s.reason == f"matches skip pattern {pattern!r}"]
    assert {record.name for record in skipped} == set(linears(model))


def test_pattern_that_matches_nothing_is_reported():
    """The names of a wrapped model start with its prefix, which is easily forgotten."""
    model = nn.ModuleDict({"model": Model(depth=2)})
    with pytest.warns(UserWarning, match=r"'layers.1' matches no module with parameters") as caught:
        quantize_model(model, skip=["layers.1", "lm_head", "embed"])
    assert len(caught) == 1
    assert linears(model) == ["model.lm_head"]


def test_subclasses_and_fused_layers_are_left_alone():
    """Their owners read the dense weight without calling forward."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    model = nn.Sequential(layer)
    report = quantize_model(model)
    reasons = {record.name: record.reason for record in report.skipped}
    assert reasons["0.self_attn.out_proj"].startswith("subclass of nn.Linear")
    assert reasons["0.linear1"] == "read directly by nn.TransformerEncoderLayer"
    with torch.no_grad():
        assert model(torch.randn(1, 3, 16)).shape == (1, 3, 16)


def test_hooks_and_foreign_dtypes_are_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.float64), nn.Linear(8, 8))
    model[0].register_forward_hook(lambda *_: None)
    model[2].forward = model[2].forward  # how accelerate hooks a module
    reasons = [record.reason for record in quantize_model(model).skipped]
    assert reasons == ["has hooks", "dtype torch.float64", "has hooks"]


def test_quantizing_twice_changes_nothing():
    model = Model()
    first = quantize_model(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    second = quantize_model(model, format="int8")
    assert second.quantized_parameters == first.quantized_parameters
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_coverage_of_a_model_as_it_is():
    model = Model(tie=False)
    before = CoverageReport.of(model)
    assert before.quantized_parameters == 0
    assert before.bits_per_weight == 0
    assert {s.name for s in before.skipped if s.reason == "not quantized"} == set(linears(model))
    after = quantize_model(model, skip=["lm_head"])
    # Sizes of the dense weights are known only while converting; they are assumed otherwise.
    assert CoverageReport.of(model, dense_dtype=torch.float32).bytes_before == after.bytes_before
    assert CoverageReport.of(nn.Identity()).parameter_share == 0


def test_report_is_readable_and_serializable():
    report = quantize_model(Model(), skip=["down_proj"])
    text = str(report)
    assert "skipped 98,304 parameters, matches skip pattern 'down_proj'" in text
    assert "and 9 more" in text
    figures = json.loads(json.dumps(report.to_dict()))
    assert figures["quantized_parameters"] == report.quantized_parameters
    assert figures["skipped"][0] == {
        "name": "embed",
        "reason": "not nn.Linear (Embedding)",
        "parameters": 3200,
    }
    assert figures["parameter_share"] == report.parameter_share


def test_meta_model_gets_the_shapes_of_a_checkpoint():
    with torch.device("meta"):
        model = Model()
    real = Model()
    assert quantize_model(model) == quantize_model(real)
    model.load_state_dict(real.state_dict(), assign=True)
    tokens = torch.arange(4)[None]
    assert torch.equal(model(tokens), real(tokens))


def test_dense_weights_are_freed_one_by_one(monkeypatch):
    """Peak memory is one dense weight above the model, not all of them."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
    weights = [weakref.ref(layer.weight) for layer in model]
    alive = []
    convert = Linear4bit.from_linear.__func__

    def spy(cls, linear, **options):
        gc.collect()
        alive.append(sum(ref() is not None for ref in weights))
        return convert(cls, linear, **options)

    monkeypatch.setattr(Linear4bit, "from_linear", classmethod(spy))
    quantize_model(model)
    assert alive == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"format": "int4"}, ValueError, "format must be one of nf4, fp4, int8, got 'int4'"),
        ({"threshold": 6.0}, ValueError, "threshold is no option of the format nf4"),
        ({"format": "int8", "blocksize": 64}, ValueError, "blocksize is no option"),
        ({"format": "int8", "threshold": -1.0}, ValueError, "threshold .*-1"),
        ({"blocksize": 100}, ValueError, "blocksize"),
        ({"skip": "lm_head"}, TypeError, "skip must be a sequence of patterns"),
        ({"skip": [3]}, TypeError, "skip must hold strings, got 3"),
        ({"skip": [""]}, ValueError, "empty string"),
        ({"skip": ["("]}, ValueError, r"skip pattern '\(' is no regular expression"),
        ({"skip": ["(?i)HEAD"]}, ValueError, "is no regular expression: global flags"),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, message):
    model = Model(tie=False)
    with pytest.raises(error, match=message):
        quantize_model(model, **arguments)
    assert len(linears(model)) == 25


@pytest.mark.parametrize(
    ("model", "message"),
    [(nn.Linear(3, 3), "use from_linear"), ([], "must be an nn.Module, got list")],
)
def test_bad_models(model, message):
    with pytest.raises(TypeError, match=message):
        quantize_model(model)


def test_import_pulls_in_nothing_unexpected():
    code = (
        "import sys, kq_nn; "
        "print([m for m in ('kq_optim', 'kq_hf', 'transformers', 'peft', 'safetensors', "
        "'triton', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_int8_model():
    model = Model(tie=False)
    dense = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    report = quantize_model(model, format="int8", threshold=4.0, skip=["lm_head"])
    layers = {n: m for n, m in model.named_modules() if isinstance(m, Linear8bitLt)}
    assert layers.keys() == dense.keys() - {"lm_head"}
    for name, layer in layers.items():
        expected = Linear8bitLt.from_linear(dense[name]).state_dict()
        assert layer.threshold == 4.0
        for key, tensor in layer.state_dict().items():
            assert torch.equal(tensor, expected[key]), (name, key)
    elements = sum(layer.weight.numel() for layer in layers.values())
    assert report.quantized_parameters == elements
    # a code an element, a scale a row, five numbers of header
    scales = sum(4 * layer.out_features + 20 for layer in layers.values())
    assert report.quantized_bytes_after == elements + scales
    assert report.bits_per_weight == 8 * (elements + scales) / elements


def test_formats_may_be_mixed():
    model = Model(tie=False)
    first = quantize_model(model, format="int8", skip=["down_proj"])
    both = quantize_model(model, format="nf4")
    assert both.quantized_parameters > first.quantized_parameters
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {Linear4bit, Linear8bitLt}
