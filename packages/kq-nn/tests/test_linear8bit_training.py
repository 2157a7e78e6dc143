"""The int8 layer with a floating-point weight that learns, and what becomes of it."""

import copy

import pytest
import torch
from torch import nn

import kq_functional as kq
from kq_nn import CoverageReport, Linear8bitLt, is_quantized, quantize_model


def trained(**options):
    torch.manual_seed(0)
    return Linear8bitLt(100, 17, has_fp16_weights=True, **options)


def test_weight_is_an_ordinary_parameter():
    torch.manual_seed(0)
    linear = nn.Linear(100, 17)
    layer = trained()
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.weight.requires_grad
    assert not is_quantized(layer)
    # The first values are those of nn.Linear, so that states are exchanged in both directions.
    assert torch.equal(layer.weight, linear.weight)
    assert torch.equal(layer.bias, linear.bias)
    layer.load_state_dict(linear.state_dict())
    linear.load_state_dict(layer.state_dict())
    assert layer.half().weight.dtype == torch.float16


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_forward_quantizes_the_weight_of_the_moment(threshold):
    layer = trained(threshold=threshold)
    x = torch.randn(5, 100) * 3
    for _ in range(2):
        codes, absmax, _ = kq.int8_vectorwise_quant(layer.weight)
        expected = kq.int8_linear(x, codes, absmax, layer.bias, threshold)
        assert torch.equal(layer(x), expected)
        assert torch.equal(Linear8bitLt.from_linear(layer, threshold=threshold)(x), expected)
        with torch.no_grad():
            layer.weight.mul_(0.5).add_(0.01)


def test_learns():
    layer = trained(threshold=6.0)
    target = nn.Linear(100, 17)
    x = torch.randn(256, 100)
    x[:, 3] *= 10
    optimizer = torch.optim.Adam(layer.parameters(), 3e-3)
    losses = []
    for _ in range(100):
        loss = (layer(x) - target(x)).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


def test_from_linear_shares_the_weight():
    linear = nn.Linear(100, 17).eval()
    layer = Linear8bitLt.from_linear(linear, has_fp16_weights=True, threshold=6.0)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert not layer.training


def test_quantize_copies():
    layer = trained(dtype=torch.bfloat16)
    weight = torch.randn(17, 100)
    parameter = layer.weight
    layer.quantize_(weight)
    assert layer.weight is parameter
    assert torch.equal(layer.weight, weight.bfloat16())
    decoded = layer.dequantize()
    assert torch.equal(decoded, weight.bfloat16().float())
    decoded.zero_()
    assert layer.weight.any()


def test_states_are_not_confused():
    frozen, layer = Linear8bitLt.from_linear(nn.Linear(100, 17)), trained()
    before = copy.deepcopy(layer.state_dict())
    for source, target in ((frozen, layer), (layer, frozen)):
        with pytest.raises(RuntimeError, match="weight"):
            target.load_state_dict(source.state_dict())
    assert torch.equal(layer.weight, before["weight"])


def test_counts_as_not_quantized():
    model = nn.Sequential(trained(), nn.Linear(17, 4))
    report = quantize_model(model, format="int8")
    assert report.quantized_parameters == 4 * 17
    reasons = {record.name: record.reason for record in report.skipped}
    assert reasons["0"] == "subclass of nn.Linear (Linear8bitLt)"
    assert report == CoverageReport.of(model, reasons=reasons, dense_dtype=torch.float32)
