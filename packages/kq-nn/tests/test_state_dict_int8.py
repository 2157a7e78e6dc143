"""Saving and loading of int8 layers: every bit returns, nothing else is accepted."""

import copy

import pytest
import torch
from torch import nn
from transports import assert_same_model, through_dcp, through_safetensors, through_torch

from kq_nn import Linear4bit, Linear8bitLt


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        Linear8bitLt.from_linear(nn.Linear(101, 33), threshold=6.0),
        nn.LayerNorm(33),
        Linear8bitLt.from_linear(nn.Linear(33, 7, bias=False, dtype=torch.bfloat16)),
    )


def empty(device=None):
    return nn.Sequential(
        Linear8bitLt(101, 33, threshold=6.0, device=device),
        nn.LayerNorm(33, device=device),
        Linear8bitLt(33, 7, bias=False, device=device),
    )


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("transport", [through_torch, through_safetensors, through_dcp])
def test_strict_round_trip(transport, device, tmp_path):
    source = model()
    loaded = transport(source.state_dict(), tmp_path)
    target = empty(device=device)
    target.load_state_dict(loaded, strict=True, assign=device == "meta")
    assert_same_model(target, source, size=4)
    for layer in (target[0], target[2]):
        layer.check_state()
        assert not layer.weight.requires_grad


def test_keys_are_the_parameters():
    layer = model()[0]
    assert list(layer.state_dict()) == [name for name, _ in layer.named_parameters()]
    assert set(layer.state_dict()) == {"weight", "weight_absmax", "weight_format", "bias"}
    assert layer.weight_format.tolist() == [1, 2, 0, 0, 101]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("in_features", [1, 33])
def test_a_dense_layer_refuses_the_codes(strict, in_features):
    """int8 [out, in] would be converted to floats a hundred times too large, silently."""
    state_dict = Linear8bitLt(in_features, 7).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(in_features, 7).load_state_dict(state_dict, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Linear(101, 33), r"weight must be torch.int8 \[33, 101, 1\], got torch.float32"),
        (Linear4bit(101, 33), r"says .*nf4.*expects .*int8, one scale a row"),
        (Linear8bitLt(100, 33), r"in_features 100.*in_features 101"),
    ],
)
def test_other_states_are_refused(source, message, strict):
    layer = model()[0]
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(source.state_dict(), strict=strict)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_4bit_layer_refuses_the_codes():
    with pytest.raises(RuntimeError, match=r"says .*int8.*expects .*nf4"):
        Linear4bit(101, 33).load_state_dict(model()[0].state_dict())


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["weight", "weight_absmax", "weight_format"])
def test_part_of_a_weight_is_refused_even_when_not_strict(name, strict):
    state_dict = model()[0].state_dict()
    del state_dict[name]
    with pytest.raises(RuntimeError, match=f"{name} is missing"):
        Linear8bitLt(101, 33).load_state_dict(state_dict, strict=strict)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weight", lambda t: t.view(torch.uint8)),
        ("weight", lambda t: t.squeeze(-1)),
        ("weight_absmax", lambda t: t.view(torch.float32)),
        ("weight_absmax", lambda t: t[:-1]),
        ("weight_format", lambda t: t[:3]),
    ],
)
def test_tensors_of_another_type_or_size_are_refused(name, damage):
    """torch would convert the values of a float32 scale to int32: zeros, silently."""
    state_dict = model()[0].state_dict()
    state_dict[name] = damage(state_dict[name])
    with pytest.raises(RuntimeError, match=f"{name} must be"):
        Linear8bitLt(101, 33).load_state_dict(state_dict)


def test_accelerate_style_loading_sets_parameters_one_by_one():
    source, target = model(), empty(device="meta")
    for name, tensor in source.state_dict().items():
        module, _, attribute = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        setattr(target.get_submodule(module), attribute, parameter)
    assert_same_model(target, source, size=4)
