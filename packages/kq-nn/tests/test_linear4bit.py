"""One layer: what it holds, what it computes, what it never changes."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import kq_functional as kq
from kq_nn import Linear4bit, LinearFP4, LinearNF4

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
FORMATS = pytest.mark.parametrize(
    ("quant_type", "blocksize", "compress_statistics"),
    [("nf4", 64, True), ("nf4", 64, False), ("fp4", 32, True), ("fp4", 128, False)],
)
# odd rows, rows shorter than a block, rows that end in a short block, whole blocks
SIZES = pytest.mark.parametrize(("n", "k"), [(5, 1), (3, 33), (17, 100), (48, 129), (40, 256)])


def dense(n, k, *, bias=True, dtype=torch.float32, seed=0):
    linear = nn.Linear(k, n, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(n, k, generator=generator))
        if bias:
            linear.bias.copy_(torch.randn(n, generator=generator))
    return linear.to(dtype)


def make(n, k, *, bias=True, dtype=torch.float32, seed=0, **options):
    return Linear4bit.from_linear(dense(n, k, bias=bias, dtype=dtype, seed=seed), **options)


def inputs(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


def error_bound(x, weight, bias, dtype):
    """Largest difference between x Wᵀ + b computed in `dtype` and in float64.

    W is rounded to `dtype` once (u). A sum of k products in any order has an error below
    γ = (k + 1) u32 / (1 − (k + 1) u32) of the sum of magnitudes (Higham, section 3.1) when it is
    kept in float32, which every backend does. The sum is rounded to `dtype` before and after
    the bias is added (2u).
    """
    u, k = UNIT_ROUNDOFF[dtype], x.shape[-1]
    gamma = (k + 1) * 2.0**-24 / (1 - (k + 1) * 2.0**-24)
    magnitude = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        magnitude = magnitude + bias.double().abs()
    return ((1 + gamma) * (1 + u) ** 3 - 1) * magnitude


@FORMATS
@SIZES
def test_weight_is_what_kq_functional_makes_of_it(n, k, quant_type, blocksize, compress_statistics):
    linear = dense(n, k)
    layer = Linear4bit.from_linear(
        linear,
        quant_type=quant_type,
        blocksize=blocksize,
        compress_statistics=compress_statistics,
    )
    packed, state = kq.quantize_4bit(
        linear.weight,
        blocksize=blocksize,
        quant_type=quant_type,
        compress_statistics=compress_statistics,
    )
    assert torch.equal(layer.weight, packed)
    assert layer.weight.shape == (n, (k + 1) // 2)
    assert torch.equal(layer.dequantize(), kq.dequantize_4bit(packed, state).float())
    for name, parameter in layer.named_parameters():
        if name != "bias":
            assert type(parameter) is nn.Parameter
            assert not parameter.requires_grad
            assert not parameter.is_floating_point()
    assert not list(layer.named_buffers())


@DTYPES
@FORMATS
@SIZES
def test_forward_equals_a_dense_layer_with_the_dequantized_weight(
    n, k, quant_type, blocksize, compress_statistics, dtype
):
    layer = make(
        n,
        k,
        dtype=dtype,
        quant_type=quant_type,
        blocksize=blocksize,
        compress_statistics=compress_statistics,
    )
    x = inputs(2, 3, k, dtype=dtype)
    y = layer(x)
    weight = layer.dequantize()
    exact = x.double() @ weight.double().T + layer.bias.double()
    assert y.dtype == dtype
    assert y.shape == (2, 3, n)
    bound = error_bound(x, weight, layer.bias, dtype)
    assert ((y.double() - exact).abs() <= bound).all()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    k=st.integers(1, 200),
    lead=st.lists(st.integers(0, 3), max_size=2),
    bias=st.booleans(),
)
def test_forward_of_any_shape(n, k, lead, bias):
    layer = make(n, k, bias=bias, blocksize=32)
    x = inputs(*lead, k)
    y = layer(x)
    weight = layer.dequantize()
    exact = F.linear(x.double(), weight.double(), layer.bias.double() if bias else None)
    assert y.shape == exact.shape
    assert ((y.double() - exact).abs() <= error_bound(x, weight, layer.bias, x.dtype)).all()


@pytest.mark.parametrize("bias_dtype", UNIT_ROUNDOFF)
@DTYPES
def test_compute_dtype_is_that_of_the_input_every_time(dtype, bias_dtype):
    """Nothing is latched from the first call and the bias keeps its dtype (D27)."""
    layer = make(8, 70, dtype=bias_dtype)
    before = copy.deepcopy(layer.state_dict())
    layer(inputs(1, 70))  # a float32 warm-up
    y = layer(inputs(4, 70, dtype=dtype))
    assert y.dtype == dtype
    assert torch.equal(y, copy.deepcopy(layer)(inputs(4, 70, dtype=dtype)))
    assert layer.bias.dtype == bias_dtype
    assert_same_bits(layer.state_dict(), before)


@pytest.mark.parametrize("compress_statistics", [True, False])
def test_forward_and_mode_switches_change_no_bit(compress_statistics):
    """An eval forward must not repack what a checkpoint will store (D13)."""
    layer = make(33, 100, compress_statistics=compress_statistics)
    before = copy.deepcopy(layer.state_dict())
    attributes = set(vars(layer))
    for mode in (True, False, True):
        layer.train(mode)
        with torch.inference_mode(not mode):
            layer(inputs(5, 100))
        assert_same_bits(layer.state_dict(), before)
    assert set(vars(layer)) == attributes
    x = inputs(5, 100).requires_grad_()
    layer(x).sum().backward()  # and autograd works after eval
    assert x.grad is not None


@pytest.mark.parametrize(
    "cast",
    [
        nn.Module.half,
        nn.Module.bfloat16,
        nn.Module.float,
        nn.Module.double,
        lambda m: m.to(torch.float16),
        lambda m: m.to("cpu", torch.bfloat16),
    ],
)
def test_casting_leaves_the_packed_state_alone(cast):
    """Storage that casts see as floating point would be destroyed (D8, D28)."""
    layer = make(33, 100)
    before = copy.deepcopy(layer.state_dict())
    cast(layer)
    after = layer.state_dict()
    before.pop("bias")
    after.pop("bias")
    assert_same_bits(after, before)


def test_moving_never_quantizes():
    """`.to()` is not an operation on values, in whatever order it is called (D12)."""
    layer = make(33, 100)
    before = copy.deepcopy(layer.state_dict())
    layer.to("cpu")
    layer.eval().to("cpu")
    assert_same_bits(layer.state_dict(), before)
    meta = copy.deepcopy(layer).to("meta")
    assert {name: t.shape for name, t in meta.state_dict().items()} == {
        name: t.shape for name, t in before.items()
    }


def test_a_new_layer_holds_zero():
    layer = Linear4bit(70, 6)
    assert torch.equal(layer.dequantize(), torch.zeros(6, 70))
    assert torch.equal(layer(inputs(2, 70)), torch.zeros(2, 6))
    assert Linear4bit(70, 6, dtype=torch.bfloat16).bias.dtype == torch.bfloat16
    assert Linear4bit(70, 6, bias=False).bias is None


def test_materialized_meta_layer_is_valid_after_reset():
    """The FSDP way: build on meta, `to_empty`, `reset_parameters`."""
    layer = Linear4bit(70, 6, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    layer.check_state()
    assert torch.equal(layer.dequantize(), torch.zeros(6, 70))


def test_from_linear_takes_over_bias_mode_and_device():
    linear = dense(6, 70, dtype=torch.bfloat16).eval()
    weight = linear.weight.detach().clone()
    layer = Linear4bit.from_linear(linear)
    assert layer.bias is linear.bias
    assert layer.bias.requires_grad
    assert not layer.training
    assert torch.equal(linear.weight, weight)
    meta = Linear4bit.from_linear(nn.Linear(70, 6, device="meta"))
    assert all(parameter.is_meta for parameter in meta.parameters())
    meta.check_state()
    real = {name: (t.shape, t.dtype) for name, t in layer.state_dict().items() if name != "bias"}
    for name, (shape, dtype) in real.items():
        assert (meta.state_dict()[name].shape, meta.state_dict()[name].dtype) == (shape, dtype)


def test_from_linear_on_meta_without_bias():
    layer = Linear4bit.from_linear(nn.Linear(70, 6, bias=False, device="meta"))
    assert layer.bias is None


def test_quantize_replaces_the_weight():
    layer = make(6, 70)
    weight = inputs(6, 70, seed=9)
    assert layer.quantize_(weight) is layer
    assert_same_bits(
        layer.pack(weight), {n: t for n, t in layer.state_dict().items() if n != "bias"}
    )
    # quantizing what a layer holds gives its codes back: every value is one of the codes' values
    plain = make(6, 70, compress_statistics=False)
    again = plain.pack(plain.dequantize())
    assert torch.equal(again["weight"], plain.weight)
    assert torch.equal(again["weight_absmax"], plain.weight_absmax)


@pytest.mark.parametrize(("cls", "quant_type"), [(LinearNF4, "nf4"), (LinearFP4, "fp4")])
def test_names_for_each_type(cls, quant_type):
    assert cls(70, 6).quant_type == quant_type
    layer = cls.from_linear(dense(6, 70), blocksize=32)
    assert type(layer) is cls
    assert torch.equal(layer.weight, make(6, 70, quant_type=quant_type, blocksize=32).weight)
    with pytest.raises(TypeError, match="quant_type"):
        cls.from_linear(dense(6, 70), quant_type="nf4")


@DTYPES
def test_dequantize_to_a_dtype_rounds_the_float32_values_once(dtype):
    layer = make(6, 70)
    assert torch.equal(layer.dequantize(dtype), layer.dequantize().to(dtype))
    assert layer.quant_state.dtype == torch.float32
    assert layer.W_q is layer.weight


def test_repr_tells_the_format():
    text = repr(Linear4bit(70, 6, quant_type="fp4", blocksize=128, compress_statistics=False))
    assert text == (
        "Linear4bit(in_features=70, out_features=6, bias=True, quant_type=fp4, blocksize=128, "
        "compress_statistics=False)"
    )


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent_and_identical(copier):
    layer = make(33, 100).eval()
    clone = copier(layer)
    assert_same_bits(clone.state_dict(), layer.state_dict())
    assert torch.equal(clone(inputs(2, 100)), layer(inputs(2, 100)))
    assert not clone.training
    clone.weight.zero_()
    assert layer.weight.any()


@DTYPES
def test_gradients_are_those_of_a_dense_layer(dtype):
    layer = make(48, 129, dtype=dtype)
    x = inputs(4, 129, dtype=dtype).requires_grad_()
    grad = inputs(4, 48, dtype=dtype, seed=2)
    layer(x).backward(grad)
    weight = layer.dequantize()
    exact = grad.double() @ weight.double()
    assert ((x.grad.double() - exact).abs() <= error_bound(grad, weight.T, None, dtype)).all()
    # the bias gradient is a sum of 4 rows: 3 additions and the rounding to dtype
    terms = grad.double().abs().sum(0)
    bound = 4 * UNIT_ROUNDOFF[dtype] * 1.02 * terms  # 1.02: second order, (1 + 2^-8)^4
    assert ((layer.bias.grad.double() - grad.double().sum(0)).abs() <= bound).all()
    assert layer.weight.grad is None


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant):
    layer = make(33, 100)
    plain, saved = inputs(4, 100).requires_grad_(), inputs(4, 100).requires_grad_()
    layer(plain).pow(2).sum().backward()
    bias_grad, layer.bias.grad = layer.bias.grad, None
    checkpoint(layer, saved, use_reentrant=use_reentrant).pow(2).sum().backward()
    assert torch.equal(saved.grad, plain.grad)
    assert torch.equal(layer.bias.grad, bias_grad)


def test_autocast_computes_in_its_dtype():
    layer = make(33, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(inputs(4, 100))
    assert y.dtype == torch.bfloat16
    bfloat16 = copy.deepcopy(layer).to(torch.bfloat16)
    assert torch.equal(y, bfloat16(inputs(4, 100, dtype=torch.bfloat16)))


def test_compiles_to_one_graph():
    torch.manual_seed(0)
    mlp = nn.Sequential(make(64, 100), nn.ReLU(), make(10, 64, compress_statistics=False))
    x = inputs(4, 100).requires_grad_()
    compiled_x = x.detach().clone().requires_grad_()
    y = mlp(x)
    y.sum().backward()
    torch._dynamo.reset()
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    compiled_y = compiled(compiled_x)
    compiled_y.sum().backward()
    assert torch.equal(compiled_y, y)
    assert torch.equal(compiled_x.grad, x.grad)


def test_exports():
    layer = make(33, 100).eval()
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (inputs(4, 100),), dynamic_shapes=({0: rows},))
    assert torch.equal(program.module()(inputs(7, 100)), layer(inputs(7, 100)))
    assert torch.equal(layer(inputs(2, 100)), copy.deepcopy(layer)(inputs(2, 100)))


def test_layers_without_rows_or_columns():
    for n, k in ((0, 5), (5, 0)):
        layer = Linear4bit(k, n, bias=False)
        layer.quantize_(torch.empty(n, k))
        assert layer.dequantize().shape == (n, k)
        assert torch.equal(layer(torch.ones(2, k)), torch.zeros(2, n))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"quant_type": "int4"}, ValueError, "quant_type .*'int4'"),
        ({"blocksize": 48}, ValueError, "blocksize .*48"),
        ({"blocksize": 64.0}, TypeError, "blocksize"),
        ({"compress_statistics": 1}, TypeError, "compress_statistics"),
        ({"in_features": -1}, ValueError, "in_features .*-1"),
        ({"out_features": 2.5}, TypeError, "out_features .*2.5"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Linear4bit(**{"in_features": 4, "out_features": 4, **arguments})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Embedding(3, 3), "must be a dense nn.Linear, got Embedding"),
        (Linear4bit(3, 3), "must be a dense nn.Linear, got Linear4bit"),
        (nn.Linear(3, 3, dtype=torch.float64), "weight must be .*float64"),
    ],
)
def test_from_linear_errors(source, message):
    with pytest.raises(TypeError, match=message):
        Linear4bit.from_linear(source)


def test_quantize_refuses_another_shape():
    with pytest.raises(ValueError, match=r"weight must have shape \(6, 70\), got \(70, 6\)"):
        Linear4bit(70, 6).quantize_(torch.ones(70, 6))


def test_wrong_input_size():
    with pytest.raises(ValueError, match="70"):
        Linear4bit(70, 6)(torch.ones(2, 71))
