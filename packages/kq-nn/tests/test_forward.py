"""Forward keeps nothing: each call reads the parameters as they are, however they came to be so."""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import kq_functional as kq
from kq_nn import Linear4bit

N, K = 6, 70
STORED = ["weight", "weight_absmax", "weight_nested_absmax", "weight_offset"]


def randn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(seed=0, **options):
    linear = nn.Linear(K, N)
    with torch.no_grad():
        linear.weight.copy_(randn(N, K, seed=seed))
        linear.bias.copy_(randn(N, seed=seed + 100))
    return Linear4bit.from_linear(linear, **options)


def expected(layer, x):
    """The product with everything read anew."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return kq.linear_4bit(x, layer.weight.clone(), copy.deepcopy(layer).quant_state, bias)


def set_parameters(layer, other):
    for name, parameter in other.named_parameters():
        setattr(layer, name, parameter)


def set_data(layer, other):
    for name, parameter in other.named_parameters():
        getattr(layer, name).data = parameter.data


def copy_in_place(layer, other):
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            getattr(layer, name).copy_(parameter)


def quantize_anew(layer, other):
    layer.quantize_(randn(N, K, seed=9))
    layer.bias = other.bias


CHANGES = {
    "parameters": set_parameters,
    "data": set_data,
    "in place": copy_in_place,
    "loaded": lambda layer, other: layer.load_state_dict(other.state_dict()),
    "assigned": lambda layer, other: layer.load_state_dict(other.state_dict(), assign=True),
    "quantized": quantize_anew,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("compress_statistics", [True, False])
@pytest.mark.parametrize("grad_mode", [False, True])
def test_a_changed_weight_is_seen(change, compress_statistics, grad_mode):
    layer = make(compress_statistics=compress_statistics)
    other = make(seed=9, compress_statistics=compress_statistics)
    x = randn(3, K)
    with torch.set_grad_enabled(grad_mode):
        before = layer(x)
        CHANGES[change](layer, other)
        assert torch.equal(layer(x), other(x))
        assert not torch.equal(layer(x), before)


def test_a_replaced_weight_is_let_go():
    layer = make()
    layer(randn(3, K))
    old = [weakref.ref(parameter) for parameter in layer.parameters()]
    storages = [weakref.ref(parameter.untyped_storage()) for parameter in layer.parameters()]
    set_parameters(layer, make(seed=9))
    gc.collect()
    assert not any(ref() for ref in old + storages)


@pytest.mark.parametrize("name", STORED)
def test_a_weight_that_no_longer_fits_is_refused(name):
    """Its memory may have shrunk under the same address."""
    layer = make()
    x = randn(3, K)
    layer(x)
    parameter = getattr(layer, name)
    parameter.data = parameter.data.flatten()[:-1]
    with pytest.raises(ValueError, match=r"must have .* elements, got"):
        layer(x)


@pytest.mark.parametrize("name", STORED[:2])
def test_a_weight_with_gaps_is_read_right(name):
    layer = make()
    x = randn(3, K)
    before = layer(x)
    parameter = getattr(layer, name)
    parameter.data = parameter.data.repeat_interleave(2, -1)[:, ::2]
    assert not parameter.is_contiguous()
    assert torch.equal(layer(x), before)


def test_options_that_are_changed_are_seen():
    layer = make()
    layer(randn(3, K))
    layer.quant_type = "fp4"
    assert torch.equal(layer(randn(3, K)), expected(layer, randn(3, K)))
    layer.blocksize = 32
    with pytest.raises(ValueError, match="absmax must have 18 elements"):
        layer(randn(3, K))


class Doubled(nn.Module):
    def forward(self, bias):
        return 2 * bias


def test_a_parametrized_bias_counts():
    layer = make()
    x = randn(3, K)
    parametrize.register_parametrization(layer, "bias", Doubled())
    twice = make()
    with torch.no_grad():
        twice.bias.mul_(2)
    assert torch.equal(layer(x), twice(x))
    layer(x).sum().backward()
    assert torch.equal(layer.parametrizations.bias.original.grad, torch.full((N,), 6.0))


def test_functional_call():
    layer, other = make(), make(seed=9)
    x = randn(3, K)
    state = {name: tensor.detach() for name, tensor in other.state_dict().items()}
    assert torch.equal(torch.func.functional_call(layer, state, x), other(x))
    assert not torch.equal(layer(x), other(x))
    biases = torch.stack([layer.bias.detach(), other.bias.detach()])

    def call(bias):
        return torch.func.functional_call(layer, {"bias": bias}, x)

    assert torch.equal(torch.func.vmap(call)(biases)[1], call(other.bias.detach()))


def test_hooks_run():
    layer = make()
    seen = []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    layer.register_forward_hook(lambda *given: seen.append("after") or given[-1] + 1)
    x = randn(3, K).requires_grad_()
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    y = layer(x)
    y.sum().backward()
    assert seen == ["before", "after", "backward"]
    assert torch.equal(y, make()(x) + 1)


def test_threads_may_share_a_layer():
    layer = make()
    inputs = [randn(1, K, seed=seed) for seed in range(64)]
    with torch.no_grad():
        alone = [layer(x) for x in inputs]

    def run(x):
        with torch.no_grad():
            return layer(x)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            together = list(pool.map(run, inputs))
            assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_pinned_backend_computes(backend):
    if backend not in [record.name for record in kq.backends() if record.status == "loaded"]:
        pytest.skip(f"{backend} is not loaded")
    layer = make()
    x = randn(3, K)
    with torch.no_grad():
        layer(x)
        with kq.use_backend(backend):
            assert torch.equal(
                layer(x), kq.linear_4bit(x, layer.weight, layer.quant_state, layer.bias)
            )
