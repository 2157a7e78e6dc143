"""The int8 layer: what it holds, what it computes, what it never changes."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import kq_functional as kq
from kq_nn import Linear4bit, Linear8bitLt, is_quantized

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
SIZES = pytest.mark.parametrize(("n", "k"), [(5, 1), (3, 33), (17, 100), (40, 256)])


def dense(n, k, *, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(k, n, bias=bias)
    nn.init.normal_(linear.weight)
    return linear.to(dtype)


def make(n, k, *, bias=True, dtype=torch.float32, seed=0, **options):
    return Linear8bitLt.from_linear(dense(n, k, bias=bias, dtype=dtype, seed=seed), **options)


def inputs(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_outliers(*shape, **options):
    x = inputs(*shape, **options)
    x[..., 0] = 20.0
    x[..., -1, 7] = -30.0
    return x


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


@DTYPES
@SIZES
def test_weight_is_what_kq_functional_makes_of_it(n, k, dtype):
    linear = dense(n, k, dtype=dtype)
    layer = Linear8bitLt.from_linear(linear)
    codes, absmax, _ = kq.int8_vectorwise_quant(linear.weight)
    assert layer.weight.shape == (n, k, 1)
    assert torch.equal(layer.weight.squeeze(-1), codes)
    assert torch.equal(layer.weight_absmax.view(torch.float32), absmax)
    assert torch.equal(layer.dequantize(), kq.int8_vectorwise_dequant(codes, absmax))
    # Nearest codes: half a step, and float32 rounding of code, scale and value.
    step = absmax[:, None].double() / 127
    error = (layer.dequantize().double() - linear.weight.double()).abs()
    assert (error <= step * (0.5 + 4 * 127 * 2.0**-24)).all()
    for name, parameter in layer.named_parameters():
        if name != "bias":
            assert type(parameter) is nn.Parameter
            assert not parameter.requires_grad
            assert not parameter.is_floating_point()
    assert not list(layer.named_buffers())
    assert is_quantized(layer)


@DTYPES
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_forward_is_int8_linear_of_the_parts(threshold, dtype):
    layer = make(17, 100, dtype=dtype, threshold=threshold)
    x = with_outliers(2, 3, 100, dtype=dtype)
    before = x.clone()
    y = layer(x)
    codes, absmax = layer.weight.squeeze(-1), layer.weight_absmax.view(torch.float32)
    assert y.dtype == dtype
    assert torch.equal(y, kq.int8_linear(x, codes, absmax, layer.bias, threshold))
    assert torch.equal(x, before)


@DTYPES
def test_forward_errs_by_the_rounding_of_x_alone(dtype):
    """Against a dense layer with the decoded weight, in float64.

    A code of x is off by half of absmax / 127, and the float32 product that makes it by 2 units
    of roundoff of at most 127; the sum in float32 has relative errors of no more than k + 4 units
    (products with outlier columns, scale, bias), and the result is rounded once.
    """
    n, k = 17, 100
    layer = make(n, k, dtype=dtype, threshold=6.0)
    x = with_outliers(5, k, dtype=dtype)
    weight, exact_x = layer.dequantize().double(), x.double()
    outlier = exact_x.abs() >= 6
    columns = outlier.any(0)
    absmax = exact_x.masked_fill(outlier, 0).abs().amax(1, keepdim=True)
    off_x = absmax / 127 * (0.5 + 2 * 127 * 2.0**-24)
    exact = exact_x @ weight.T + layer.bias.double()
    rounding_of_x = off_x * weight[:, ~columns].abs().sum(1)
    size = exact_x.abs() @ weight.abs().T + rounding_of_x + layer.bias.double().abs()
    bound = rounding_of_x + size * (k + 4) * 2.0**-24
    bound = bound + (exact.abs() + bound) * UNIT_ROUNDOFF[dtype]
    assert ((layer(x).double() - exact).abs() <= bound).all()


def test_outliers_are_what_the_threshold_is_for():
    layer = make(17, 100)
    x = with_outliers(5, 100) * torch.cat([torch.tensor([50.0]), torch.ones(99)])
    exact = x.double() @ layer.dequantize().double().T + layer.bias.double()
    without = (layer(x).double() - exact).norm()
    layer.threshold = 6.0
    assert (layer(x).double() - exact).norm() < without / 20


@pytest.mark.parametrize("bias_dtype", UNIT_ROUNDOFF)
@DTYPES
def test_compute_dtype_is_that_of_the_input_every_time(dtype, bias_dtype):
    """Nothing is latched from the first call and the bias keeps its dtype (D27)."""
    layer = make(8, 70, dtype=bias_dtype, threshold=6.0)
    before = copy.deepcopy(layer.state_dict())
    layer(inputs(1, 70))  # a float32 warm-up
    y = layer(inputs(4, 70, dtype=dtype))
    assert y.dtype == dtype
    assert torch.equal(y, copy.deepcopy(layer)(inputs(4, 70, dtype=dtype)))
    assert_same_bits(layer.state_dict(), before)


def test_forward_and_mode_switches_change_no_bit():
    layer = make(33, 100, threshold=6.0)
    before = copy.deepcopy(layer.state_dict())
    attributes = set(vars(layer))
    for mode in (True, False, True):
        layer.train(mode)
        with torch.inference_mode(not mode):
            layer(with_outliers(5, 100))
        assert_same_bits(layer.state_dict(), before)
    assert set(vars(layer)) == attributes


@pytest.mark.parametrize(
    "cast",
    [
        nn.Module.half,
        nn.Module.float,
        nn.Module.double,
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.eval().to("cpu"),
    ],
)
def test_casting_and_moving_leave_the_stored_state_alone(cast):
    layer = make(33, 100)
    before = copy.deepcopy(layer.state_dict())
    cast(layer)
    after = layer.state_dict()
    assert_same_bits(
        {name: tensor for name, tensor in after.items() if name != "bias"},
        {name: tensor for name, tensor in before.items() if name != "bias"},
    )


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("has_fp16_weights", [False, True])
def test_copies_are_independent_and_identical(copier, has_fp16_weights):
    layer = make(33, 100, has_fp16_weights=has_fp16_weights, threshold=6.0).eval()
    clone = copier(layer)
    assert_same_bits(clone.state_dict(), layer.state_dict())
    assert torch.equal(clone(inputs(2, 100)), layer(inputs(2, 100)))
    assert clone.threshold == 6.0
    with torch.no_grad():
        clone.weight.zero_()
    assert layer.weight.any()


def test_a_new_layer_holds_zero():
    layer = Linear8bitLt(70, 6)
    assert torch.equal(layer.dequantize(), torch.zeros(6, 70))
    assert torch.equal(layer(inputs(2, 70)), torch.zeros(2, 6))
    assert Linear8bitLt(70, 6, dtype=torch.bfloat16).bias.dtype == torch.bfloat16
    assert Linear8bitLt(70, 6, bias=False).bias is None


@pytest.mark.parametrize("has_fp16_weights", [False, True])
def test_materialized_meta_layer_is_valid_after_reset(has_fp16_weights):
    layer = Linear8bitLt(70, 6, True, has_fp16_weights, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    layer.check_state()
    assert torch.isfinite(layer(inputs(2, 70))).all()


def test_from_linear_takes_over_bias_mode_and_device():
    linear = dense(6, 70, dtype=torch.bfloat16).eval()
    weight = linear.weight.detach().clone()
    layer = Linear8bitLt.from_linear(linear)
    assert layer.bias is linear.bias
    assert not layer.training
    assert torch.equal(linear.weight, weight)
    meta = Linear8bitLt.from_linear(nn.Linear(70, 6, device="meta"))
    assert all(parameter.is_meta for parameter in meta.parameters())
    meta.check_state()


def test_from_parts_shares_the_parts():
    codes, absmax, _ = kq.int8_vectorwise_quant(inputs(6, 70))
    bias = torch.ones(6)
    layer = Linear8bitLt.from_parts(codes, absmax, bias, threshold=6.0)
    assert layer.weight.data_ptr() == codes.data_ptr()
    assert layer.weight_absmax.data_ptr() == absmax.data_ptr()
    assert layer.threshold == 6.0
    x = inputs(3, 70)
    assert torch.equal(layer(x), kq.int8_linear(x, codes, absmax, bias, 6.0))
    again = Linear8bitLt(70, 6)
    again.load_state_dict(layer.state_dict())
    assert_same_bits(again.state_dict(), layer.state_dict())
    assert Linear8bitLt.from_parts(codes, absmax).bias is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weight": torch.ones(6, 70)}, TypeError, "weight must be torch.int8, got torch.float32"),
        ({"absmax": torch.ones(6).half()}, TypeError, "absmax must be torch.float32"),
        ({"weight": torch.ones(6, 70, 1, dtype=torch.int8)}, ValueError, "weight must have 2 dim"),
        ({"absmax": torch.ones(5)}, ValueError, r"absmax must have shape \[6\], got \[5\]"),
        ({"bias": torch.ones(7)}, ValueError, r"bias must have shape \[6\], got \[7\]"),
        ({"threshold": float("nan")}, ValueError, "threshold"),
    ],
)
def test_from_parts_errors(changes, error, message):
    parts = {"weight": torch.ones(6, 70, dtype=torch.int8), "absmax": torch.ones(6)}
    with pytest.raises(error, match=message):
        Linear8bitLt.from_parts(**{**parts, **changes})


@DTYPES
def test_dequantize_to_a_dtype_rounds_the_float32_values_once(dtype):
    layer = make(6, 70)
    assert torch.equal(layer.dequantize(dtype), layer.dequantize().to(dtype))
    assert layer.W_q is layer.weight


def test_repr_tells_the_options():
    assert repr(Linear8bitLt(70, 6, threshold=6.0)) == (
        "Linear8bitLt(in_features=70, out_features=6, bias=True, has_fp16_weights=False, "
        "threshold=6.0)"
    )


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@DTYPES
def test_gradients_are_those_of_a_dense_layer(dtype, threshold):
    """Straight through the rounding of x: grad W and the sum of grad."""
    layer = make(48, 129, dtype=dtype, threshold=threshold)
    x = with_outliers(4, 129, dtype=dtype).requires_grad_()
    grad = inputs(4, 48, dtype=dtype, seed=2)
    layer(x).backward(grad)
    weight, exact_grad, u = layer.dequantize().double(), grad.double(), UNIT_ROUNDOFF[dtype]
    # 2 roundings of the decoded weight, 48 of a sum in float32, one or two to the dtype
    bound = exact_grad.abs() @ weight.abs() * ((1 + 2.0**-24) ** 52 * (1 + u) ** 2 - 1)
    assert ((x.grad.double() - exact_grad @ weight).abs() <= bound).all()
    # the bias gradient is a sum of 4 rows: 3 additions and the rounding to dtype
    terms = exact_grad.abs().sum(0)
    bound = 4 * u * 1.02 * terms  # 1.02: second order, (1 + 2^-8)^4
    assert ((layer.bias.grad.double() - exact_grad.sum(0)).abs() <= bound).all()
    assert layer.weight.grad is None


@pytest.mark.parametrize("has_fp16_weights", [False, True])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant, has_fp16_weights):
    layer = make(33, 100, threshold=6.0, has_fp16_weights=has_fp16_weights)
    plain, saved = (with_outliers(4, 100).requires_grad_() for _ in range(2))
    layer(plain).pow(2).sum().backward()
    expected = {name: p.grad for name, p in layer.named_parameters() if p.requires_grad}
    layer.zero_grad()
    checkpoint(layer, saved, use_reentrant=use_reentrant).pow(2).sum().backward()
    assert torch.equal(saved.grad, plain.grad)
    for name, gradient in expected.items():
        assert torch.equal(layer.get_parameter(name).grad, gradient), name


def test_autocast_computes_in_its_dtype():
    layer = make(33, 100, threshold=6.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(inputs(4, 100))
    assert y.dtype == torch.bfloat16
    bfloat16 = copy.deepcopy(layer).to(torch.bfloat16)
    assert torch.equal(y, bfloat16(inputs(4, 100, dtype=torch.bfloat16)))


@pytest.mark.parametrize("has_fp16_weights", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_compiles_to_one_graph(threshold, has_fp16_weights):
    options = {"threshold": threshold, "has_fp16_weights": has_fp16_weights}
    mlp = nn.Sequential(make(64, 100, **options), nn.ReLU(), make(10, 64, **options))
    x = with_outliers(4, 100).requires_grad_()
    compiled_x = x.detach().clone().requires_grad_()
    y = mlp(x)
    y.sum().backward()
    torch._dynamo.reset()
    compiled_y = torch.compile(mlp, fullgraph=True, backend="aot_eager")(compiled_x)
    compiled_y.sum().backward()
    assert torch.equal(compiled_y, y)
    assert torch.equal(compiled_x.grad, x.grad)


def test_exports():
    layer = make(33, 100, threshold=6.0).eval()
    rows = torch.export.Dim("rows", min=2, max=64)
    program = torch.export.export(layer, (inputs(4, 100),), dynamic_shapes=({0: rows},))
    x = with_outliers(7, 100)
    assert torch.equal(program.module()(x), layer(x))


@pytest.mark.parametrize(("n", "k"), [(0, 5), (5, 0)])
def test_layers_without_rows_or_columns(n, k):
    layer = Linear8bitLt(k, n, bias=False, threshold=6.0)
    layer.quantize_(torch.empty(n, k))
    assert layer.dequantize().shape == (n, k)
    assert torch.equal(layer(torch.ones(2, k)), torch.zeros(2, n))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threshold": -1.0}, ValueError, "threshold .*-1"),
        ({"threshold": float("inf")}, ValueError, "threshold .*inf"),
        ({"threshold": "6"}, TypeError, "threshold"),
        ({"has_fp16_weights": 1}, TypeError, "has_fp16_weights .*1"),
        ({"in_features": -1}, ValueError, "in_features .*-1"),
        ({"out_features": 2.5}, TypeError, "out_features .*2.5"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Linear8bitLt(**{"in_features": 4, "out_features": 4, **arguments})


@pytest.mark.parametrize("has_fp16_weights", [False, True])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Embedding(3, 3), "must be a dense nn.Linear, got Embedding"),
        (Linear4bit(3, 3), "must be a dense nn.Linear, got Linear4bit"),
        (Linear8bitLt(3, 3), "must be a dense nn.Linear, got Linear8bitLt"),
        (nn.Linear(3, 3, dtype=torch.float64), "weight must be .*float64"),
    ],
)
def test_from_linear_errors(source, message, has_fp16_weights):
    with pytest.raises(TypeError, match=message):
        Linear8bitLt.from_linear(source, has_fp16_weights=has_fp16_weights)


def test_wrong_sizes():
    with pytest.raises(ValueError, match=r"weight must have shape \(6, 70\), got \(70, 6\)"):
        Linear8bitLt(70, 6).quantize_(torch.ones(70, 6))
    with pytest.raises(ValueError, match="70"):
        Linear8bitLt(70, 6)(torch.ones(2, 71))
