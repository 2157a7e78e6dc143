"""Kept columns of the int8 layer: what they add, how they are stored, what is refused."""

import copy

import pytest
import torch
from torch import nn
from transports import assert_same_model, through_dcp, through_safetensors, through_torch

import kq_functional as kq
from kq_nn import Linear8bitLt, quantize_model

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
N, K, COLUMNS = 17, 101, [90, 3, 41]


def dense(n=N, k=K, dtype=torch.float32):
    torch.manual_seed(0)
    linear = nn.Linear(k, n)
    nn.init.normal_(linear.weight)
    return linear.to(dtype)


def make(columns=COLUMNS, *, dtype=torch.float32, **options):
    return Linear8bitLt.from_linear(dense(dtype=dtype), kept_columns=columns, **options)


def inputs(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@DTYPES
@pytest.mark.parametrize("columns", [COLUMNS, torch.tensor(COLUMNS), tuple(COLUMNS)])
def test_weight_has_these_columns_to_16_bits_and_the_others_as_they_were(columns, dtype):
    linear = dense(dtype=dtype)
    layer = Linear8bitLt.from_linear(linear, kept_columns=columns)
    plain = Linear8bitLt.from_linear(linear)
    for name in ("weight", "weight_absmax", "weight_format"):
        assert torch.equal(layer.get_parameter(name), plain.get_parameter(name)), name
    assert layer.weight_kept.dtype == torch.int16
    assert layer.weight_kept.shape == (N, 3)
    assert layer.weight_kept_columns.dtype == torch.int32
    assert layer.weight_kept_columns.tolist() == [3, 41, 90]
    rest = [column for column in range(K) if column not in COLUMNS]
    found = layer.dequantize()
    assert torch.equal(found[:, rest], plain.dequantize()[:, rest])
    # 1/254 of the scale in bfloat16, and what float32 and the codes' own rounding add
    scale = layer.weight_absmax.view(torch.float32)[:, None].double()
    error = (found.double() - linear.weight.double()).abs()[:, COLUMNS]
    assert (error <= scale * (2.0**-8 / 254 * 1.01 + 2.0**-23)).all()
    assert torch.equal(layer.dequantize(torch.bfloat16), found.bfloat16())
    assert not any(p.requires_grad for name, p in layer.named_parameters() if name != "bias")


@DTYPES
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_forward_adds_the_product_with_what_rounding_took(threshold, dtype):
    layer, plain = (make(c, dtype=dtype, threshold=threshold) for c in (COLUMNS, None))
    x = inputs(2, 3, K, dtype=dtype)
    x[..., 41] *= 30
    y = layer(x)
    assert y.dtype == dtype
    lost = (layer.dequantize() - plain.dequantize()).double()
    exact = plain(x).double() + x.double() @ lost.T
    # the residual, its product and the sum are rounded to dtype; a sum of 3 terms in float32
    u = UNIT_ROUNDOFF[dtype]
    size = x.double().abs() @ lost.abs().T
    float32 = x.double().abs() @ plain.dequantize().double().abs().T * 2.0**-22  # of `lost` itself
    assert ((y.double() - exact).abs() <= size * 3 * u + exact.abs() * u + float32).all()
    assert (y - plain(x)).any()


def test_an_outlier_in_a_kept_column_is_multiplied_with_the_exact_weight():
    linear = dense()
    x = torch.zeros(3, K)
    x[1, 41] = 50.0  # nothing else, so that no other error is left
    exact = linear(x)
    kept = (make(threshold=6.0)(x) - exact).abs().max()
    without = (make(None, threshold=6.0)(x) - exact).abs().max()
    assert kept < without / 100


def test_rows_do_not_depend_on_each_other():
    layer = make()
    x = inputs(5, K)
    x[2, 41] = 100.0
    for row in range(5):
        torch.testing.assert_close(layer(x[row]), layer(x)[row], rtol=1e-6, atol=1e-5)


@DTYPES
def test_gradient_is_that_of_a_dense_layer_with_the_corrected_weight(dtype):
    layer = make(dtype=dtype, threshold=6.0)
    x, grad = inputs(4, K, dtype=dtype).requires_grad_(), inputs(4, N, dtype=dtype)
    layer(x).backward(grad)
    weight, exact = layer.dequantize().double(), grad.double()
    # the two parts are rounded to dtype, and added in it; the residual is rounded to it before
    bound = exact.abs() @ weight.abs() * 4 * UNIT_ROUNDOFF[dtype] * (1 + N * 2.0**-16)
    assert ((x.grad.double() - exact @ weight).abs() <= bound + N * 2.0**-22).all()


def test_autocast_computes_in_its_dtype():
    layer = make(threshold=6.0)
    x = inputs(4, K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert torch.equal(y, copy.deepcopy(layer).to(torch.bfloat16)(x.bfloat16()))


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_compiles_to_one_graph(threshold):
    layer = make(threshold=threshold)
    x = inputs(4, K).requires_grad_()
    compiled_x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.sum().backward()
    torch._dynamo.reset()
    compiled_y = torch.compile(layer, fullgraph=True, backend="aot_eager")(compiled_x)
    compiled_y.sum().backward()
    assert torch.equal(compiled_y, y)
    assert torch.equal(compiled_x.grad, x.grad)


@pytest.mark.parametrize("shape", [(0, K), (K,), (2, 0, K)])
def test_any_leading_dimensions(shape):
    assert make()(torch.zeros(shape)).shape == (*shape[:-1], N)


@pytest.mark.parametrize("columns", [None, [], (), torch.empty(0, dtype=torch.int64)])
def test_nothing_kept_is_the_layer_as_it_was(columns):
    layer = make(columns)
    assert set(layer.state_dict()) == {"weight", "weight_absmax", "weight_format", "bias"}
    assert "kept" not in repr(layer)


def test_quantizing_again_keeps_the_same_columns():
    layer, other = make(), torch.randn(N, K, generator=torch.Generator().manual_seed(5))
    layer.quantize_(other)
    assert layer.weight_kept_columns.tolist() == [3, 41, 90]
    error = (layer.dequantize() - other).abs()
    assert error[:, COLUMNS].max() < error.max() / 100


def test_a_new_layer_holds_zero_and_keeps_the_first_columns():
    layer = Linear8bitLt(K, N, kept_columns=3)
    assert not layer.dequantize().any()
    assert layer.weight_kept_columns.tolist() == [0, 1, 2]
    weight = dense().weight
    error = (layer.quantize_(weight).dequantize() - weight).abs()
    assert error[:, :3].max() < error.max() / 100
    assert repr(layer).endswith("threshold=0.0, kept_columns=3)")
    materialized = Linear8bitLt(K, N, device="meta", kept_columns=3).to_empty(device="cpu")
    materialized.reset_parameters()
    materialized.check_state()
    assert materialized.weight_kept_columns.tolist() == [0, 1, 2]


def test_meta():
    layer = Linear8bitLt.from_linear(nn.Linear(K, N, device="meta"), kept_columns=COLUMNS)
    assert all(parameter.is_meta for parameter in layer.parameters())
    layer.check_state()
    with pytest.raises(RuntimeError, match="which columns to keep is not known"):
        layer.quantize_(torch.ones(N, K))


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.float, nn.Module.double])
def test_casts_leave_the_kept_bits_alone(cast):
    layer = make()
    before = {name: p.clone() for name, p in layer.named_parameters() if name != "bias"}
    cast(layer)
    for name, tensor in before.items():
        assert torch.equal(layer.get_parameter(name), tensor), name


def stack(*layers):
    return nn.Sequential(layers[0], nn.LayerNorm(N, device=layers[0].weight.device), layers[1])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("transport", [through_torch, through_safetensors, through_dcp])
def test_strict_round_trip(transport, device, tmp_path):
    source = stack(make(threshold=6.0), Linear8bitLt.from_linear(nn.Linear(N, 7)))
    target = stack(
        Linear8bitLt(K, N, threshold=6.0, device=device, kept_columns=3),
        Linear8bitLt(N, 7, device=device),
    )
    loaded = transport(source.state_dict(), tmp_path)
    target.load_state_dict(loaded, strict=True, assign=device == "meta")
    assert_same_model(target, source)
    target[0].check_state()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("kept", "source", "message"),
    [
        (0, COLUMNS, "weight_kept is not expected; weight_kept_columns is not expected"),
        (3, None, "weight_kept is missing; weight_kept_columns is missing"),
        (2, COLUMNS, r"weight_kept must be torch.int16 \[17, 2\], got torch.int16 \[17, 3\]"),
    ],
)
def test_state_with_another_number_of_columns_is_refused(kept, source, message, strict):
    layer = Linear8bitLt(K, N, kept_columns=kept)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(make(source).state_dict(), strict=strict)
    assert not layer.dequantize().any()


@pytest.mark.parametrize("name", ["weight_kept", "weight_kept_columns"])
def test_part_of_what_is_kept_is_refused(name):
    state_dict = make().state_dict()
    del state_dict[name]
    with pytest.raises(RuntimeError, match=f"{name} is missing"):
        Linear8bitLt(K, N, kept_columns=3).load_state_dict(state_dict, strict=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [([3, 41, 101], "less than 101, got 101"), ([3, 3, 41], "distinct, got 3 more than once")],
)
def test_damaged_indices_are_refused(columns, message):
    layer = make()
    state_dict = layer.state_dict()
    state_dict["weight_kept_columns"] = torch.tensor(columns, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=f"weight_kept_columns cannot be read: .*{message}"):
        layer.load_state_dict(state_dict, strict=False)
    assert layer.weight_kept_columns.tolist() == [3, 41, 90]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ([101], ValueError, "kept_columns must be at least 0 and less than 101, got 101"),
        ([-1], ValueError, "kept_columns must be at least 0 and less than 101, got -1"),
        ([5, 3, 5], ValueError, "kept_columns must be distinct, got 5 more than once"),
        ([1.5], TypeError, "kept_columns must hold integers, got 1.5"),
        ([True], TypeError, "kept_columns must hold integers, got True"),
        (torch.ones(2, 2, dtype=torch.int64), ValueError, "kept_columns must have one dimension"),
        (torch.tensor([1.0]), TypeError, "kept_columns must hold integers"),
        (7, TypeError, "kept_columns must be a sequence of integers, got 7"),
        ("17", TypeError, "kept_columns must be a sequence of integers, got '17'"),
    ],
)
def test_bad_columns(columns, error, message):
    with pytest.raises(error, match=message):
        make(columns)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kept_columns": 5}, ValueError, "kept_columns must be 0 to 4, got 5"),
        ({"kept_columns": -1}, ValueError, "kept_columns must be 0 to 4, got -1"),
        ({"kept_columns": [1]}, TypeError, r"kept_columns must be an int, got \[1\]"),
        ({"kept_columns": 1, "has_fp16_weights": True}, ValueError, "not with has_fp16_weights"),
    ],
)
def test_bad_number(arguments, error, message):
    with pytest.raises(error, match=message):
        Linear8bitLt(4, 4, **arguments)


def test_model_keeps_the_columns_of_each_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Linear(64, 8))
    first, head = copy.deepcopy(model[0]), model[3]
    kept = {"0": [5, 2], "3": torch.tensor([1])}
    report = quantize_model(model, format="int8", kept_columns=kept, skip=["3"])
    expected = Linear8bitLt.from_linear(first, kept_columns=[2, 5]).state_dict()
    for name, tensor in model[0].state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert model[2].kept_columns == 0
    assert model[3] is head
    # a code an element, a scale a row, five numbers of header; two columns and their indices
    assert report.quantized_bytes_after == 2 * (64 * 32 + 20) + 4 * (32 + 64) + 2 * (2 * 32 + 4)


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ([1], TypeError, "kept_columns must map names of layers to columns"),
        ({0: [1]}, TypeError, "kept_columns must have names of layers as keys, got 0"),
        ({"0": 3}, TypeError, "0: kept_columns must be a sequence"),
        ({"0": [64]}, ValueError, "0: kept_columns must be at least 0 and less than 64, got 64"),
        ({"0": [1, 1]}, ValueError, "0: kept_columns must be distinct"),
        ({"1": [1]}, ValueError, "kept_columns: '1' is no linear layer of the model"),
    ],
)
def test_bad_columns_change_no_model(kept, error, message):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
    with pytest.raises(error, match=message):
        quantize_model(model, format="int8", kept_columns=kept)
    assert type(model[0]) is nn.Linear


def test_kept_columns_are_an_option_of_int8_alone():
    with pytest.raises(ValueError, match="kept_columns is no option of the format nf4"):
        quantize_model(nn.Sequential(nn.Linear(8, 8)), kept_columns={"0": [1]})


def test_damaged_rows_stay_damaged():
    linear = dense()
    with torch.no_grad():
        linear.weight[2, 3], linear.weight[4, 0] = torch.nan, torch.inf
    layer = Linear8bitLt.from_linear(linear, kept_columns=COLUMNS)
    damaged = layer.dequantize().isnan().all(1)
    assert damaged.nonzero().flatten().tolist() == [2, 4]
    codes = layer.weight.squeeze(-1)
    assert torch.equal(codes, kq.int8_vectorwise_quant(linear.weight)[0])
