"""Saving and loading: every transport returns every bit, and nothing else is accepted."""

import copy

import pytest
import torch
from torch import nn
from transports import assert_same_model, through_dcp, through_safetensors, through_torch

from kq_nn import Linear4bit

FORMATS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"compress_statistics": False},
        {"quant_type": "fp4", "blocksize": 128},
    ],
    ids=["nested", "plain", "fp4"],
)


def model(seed=0, **options):
    torch.manual_seed(seed)
    return nn.Sequential(
        Linear4bit.from_linear(nn.Linear(101, 33), **options),
        nn.LayerNorm(33),
        Linear4bit.from_linear(nn.Linear(33, 7, bias=False, dtype=torch.bfloat16), **options),
    )


def empty(device=None, **options):
    return nn.Sequential(
        Linear4bit(101, 33, device=device, **options),
        nn.LayerNorm(33, device=device),
        Linear4bit(33, 7, bias=False, device=device, **options),
    )


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("transport", [through_torch, through_safetensors, through_dcp])
@FORMATS
def test_strict_round_trip(options, transport, device, tmp_path):
    """Defect D29: keys of a quantized layer must neither be unexpected nor half loaded."""
    source = model(**options)
    loaded = transport(source.state_dict(), tmp_path)
    target = empty(device=device, **options)
    target.load_state_dict(loaded, strict=True, assign=device == "meta")
    assert_same_model(target, source)
    for layer in (target[0], target[2]):
        layer.check_state()
        assert not layer.weight.requires_grad


def test_keys_are_the_parameters():
    layer = model()[0]
    assert list(layer.state_dict()) == [name for name, _ in layer.named_parameters()]
    assert set(layer.state_dict()) == {
        "weight",
        "weight_absmax",
        "weight_nested_absmax",
        "weight_offset",
        "weight_format",
        "bias",
    }


def test_scales_survive_as_bits():
    """float32 scales are stored as int32, through which no cast can reach them."""
    layer = model(compress_statistics=False)[0]
    scales = layer.quant_state.absmax
    assert scales.dtype == torch.float32
    assert layer.weight_absmax.dtype == torch.int32
    assert torch.equal(layer.weight_absmax.view(torch.float32), scales)
    assert scales.data_ptr() == layer.weight_absmax.data_ptr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quant_type": "fp4"}, "says .*nf4.*expects .*fp4"),
        ({"blocksize": 128}, "says .*blocksize 64.*expects .*blocksize 128"),
        ({"compress_statistics": False}, "says .*double-quantized.*expects .*plain"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_another_format_is_refused(options, message, strict, device):
    source = model().state_dict()
    target = empty(device=device, **options)
    before = copy.deepcopy(target[0].state_dict())
    with pytest.raises(RuntimeError, match=message):
        target.load_state_dict(source, strict=strict, assign=device == "meta")
    if device == "cpu":  # and none of its tensors was taken
        for name, tensor in target[0].state_dict().items():
            assert torch.equal(tensor, before[name]), name


def test_odd_and_even_rows_pack_alike_but_are_told_apart():
    odd, even = Linear4bit(63, 4), Linear4bit(64, 4)
    assert odd.weight.shape == even.weight.shape
    with pytest.raises(RuntimeError, match=r"in_features 63.*in_features 64"):
        even.load_state_dict(odd.state_dict())


@pytest.mark.parametrize("header", [[2, 0, 64, 1, 101], [1, 7, 64, 9, 101]])
def test_unknown_versions_and_types_are_refused(header):
    state_dict = model()[0].state_dict()
    state_dict["weight_format"] = torch.tensor(header, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=f"format version {header[0]}.*expects format version 1"):
        Linear4bit(101, 33).load_state_dict(state_dict)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "name", ["weight", "weight_absmax", "weight_nested_absmax", "weight_offset", "weight_format"]
)
def test_part_of_a_weight_is_refused_even_when_not_strict(name, strict):
    """New codes with old scales are garbage: bitsandbytes keeps the old ones silently."""
    state_dict = model()[0].state_dict()
    del state_dict[name]
    with pytest.raises(RuntimeError, match=f"{name} is missing"):
        Linear4bit(101, 33).load_state_dict(state_dict, strict=strict)


def test_no_weight_at_all_is_missing_keys():
    layer = Linear4bit(101, 33)
    bias = torch.ones(33)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"bias": bias})
    result = layer.load_state_dict({"bias": bias}, strict=False)
    assert "weight_absmax" in result.missing_keys
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weight", lambda t: t.float()),
        ("weight", lambda t: t[:, :-1]),
        ("weight_absmax", lambda t: t.to(torch.int32)),
        ("weight_offset", lambda t: t.view(torch.float32)),
        ("weight_nested_absmax", lambda t: t[:-1]),
        ("weight_format", lambda t: t[:3]),
    ],
)
def test_tensors_of_another_type_or_size_are_refused(name, damage):
    """torch would convert the values of a float32 scale to int32: zeros, silently."""
    state_dict = model()[0].state_dict()
    state_dict[name] = damage(state_dict[name])
    with pytest.raises(RuntimeError, match=f"{name} must be"):
        Linear4bit(101, 33).load_state_dict(state_dict)


def test_a_dense_checkpoint_is_refused():
    with pytest.raises(RuntimeError, match=r"weight must be torch\.uint8"):
        Linear4bit(101, 33).load_state_dict(nn.Linear(101, 33).state_dict())


def test_check_state_finds_what_a_loader_did_wrong():
    layer = model()[0]
    layer.check_state()
    layer.weight_format = nn.Parameter(torch.zeros(5, dtype=torch.int32), requires_grad=False)
    layer.weight_absmax = nn.Parameter(torch.zeros(33, 2))
    with pytest.raises(RuntimeError, match=r"format version 0.*weight_absmax must be torch.uint8"):
        layer.check_state()


def test_accelerate_style_loading_sets_parameters_one_by_one():
    source, target = model(), empty(device="meta")
    for name, tensor in source.state_dict().items():
        module, _, attribute = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        setattr(target.get_submodule(module), attribute, parameter)
    assert_same_model(target, source)
