"""linear_4bit: values within derived bounds, gradients, autocast, shapes, errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

import kq_functional as kq

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# The smallest number of float16 with full precision; what is below loses absolute precision.
TINY = {torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2.0**-24}


def randn(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gamma(count: int) -> float:
    """γ_n = n u / (1 − n u) for n float32 operations in any order (Higham, section 3.1)."""
    product = count * 2.0**-24
    return product / (1 - product)


def bound(
    magnitude: torch.Tensor, result: torch.Tensor, terms: int, dtype: torch.dtype
) -> torch.Tensor:
    """Bound of |computed − exact| for sums of `terms` products accumulated in float32.

    `magnitude` is Σ|x||w| (+ |bias|). To γ come: the weight rounded to float32 (one operation),
    the bias added (one); for narrower dtypes the weight may be rounded to it (a relative unit of
    every product), and the result is, before and after the bias is added (two units of at most
    the magnitude each); products or results below the normal range of float16 add a term each.
    """
    error = gamma(terms + 2) * magnitude
    if dtype != torch.float32:
        unit = UNIT[dtype]
        error = error + unit * magnitude + 2 * unit * (result.abs() + error + unit * magnitude)
        error = error + unit * magnitude + (terms + 2) * TINY[dtype]
    return error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("lead", "n", "k"), [((1,), 48, 128), ((5,), 33, 71), ((2, 3), 7, 640), ((), 16, 64)]
)
def test_forward_within_bound(
    dtype: torch.dtype,
    quant_type: str,
    nested: bool,
    with_bias: bool,
    lead: tuple[int, ...],
    n: int,
    k: int,
) -> None:
    packed, state = kq.quantize_4bit(randn(n, k), quant_type=quant_type, compress_statistics=nested)
    x = randn(*lead, k, seed=8).to(dtype)
    bias = randn(n, seed=9).to(dtype) if with_bias else None
    y = kq.linear_4bit(x, packed, state, bias)
    assert y.dtype == dtype
    assert y.shape == (*lead, n)
    weight = kq.dequantize_4bit(packed, state).double()
    exact = linear(x.double(), weight, None if bias is None else bias.double())
    magnitude = linear(
        x.double().abs(), weight.abs(), None if bias is None else bias.double().abs()
    )
    assert ((y.double() - exact).abs() <= bound(magnitude, exact, k, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("lead", "n", "k"), [((5,), 33, 71), ((2, 3), 7, 128), ((), 16, 64)])
def test_gradients_within_bound(
    dtype: torch.dtype, nested: bool, lead: tuple[int, ...], n: int, k: int
) -> None:
    """grad_x = grad W and grad_bias = Σ grad, against the dense layer in float64."""
    packed, state = kq.quantize_4bit(randn(n, k), compress_statistics=nested)
    weight = kq.dequantize_4bit(packed, state).double()
    x = randn(*lead, k, seed=8).to(dtype).requires_grad_()
    bias = randn(n, seed=9).to(dtype).requires_grad_()
    grad = randn(*lead, n, seed=10).to(dtype)
    kq.linear_4bit(x, packed, state, bias).backward(grad)
    exact = grad.double() @ weight
    magnitude = grad.double().abs() @ weight.abs()
    assert x.grad.dtype == dtype
    assert ((x.grad.double() - exact).abs() <= bound(magnitude, exact, n, dtype)).all()
    rows = grad.double().view(-1, n)
    total, sizes = rows.sum(0), rows.abs().sum(0)
    assert ((bias.grad.double() - total).abs() <= bound(sizes, total, len(rows), dtype)).all()


def test_only_what_needs_a_gradient_gets_one() -> None:
    packed, state = kq.quantize_4bit(randn(4, 64))
    x, bias = randn(3, 64), randn(4)
    assert not kq.linear_4bit(x, packed, state, bias).requires_grad
    bias.requires_grad_()
    kq.linear_4bit(x, packed, state, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((4,), 3.0))
    x.requires_grad_()
    with torch.no_grad():
        assert not kq.linear_4bit(x, packed, state, bias).requires_grad


def test_second_derivative() -> None:
    """The product is linear in x: differentiating grad W by grad multiplies by Wᵀ."""
    packed, state = kq.quantize_4bit(randn(4, 64))
    x = randn(3, 64).requires_grad_()
    y = kq.linear_4bit(x, packed, state)
    (grad,) = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    weight = kq.dequantize_4bit(packed, state).double()
    gram = weight.t() @ weight
    exact = gram.sum(0).expand(3, 64)
    # A chain of two products: 4 and 64 terms, errors compound.
    magnitude = (weight.abs().t() @ weight.abs()).sum(0).expand(3, 64)
    assert ((second.double() - exact).abs() <= gamma(4 + 64 + 4) * magnitude).all()


@pytest.mark.parametrize("k", [128, 71])
@pytest.mark.parametrize("nested", [False, True])
def test_flat_layout(k: int, nested: bool) -> None:
    """With k = 71 blocks cross rows; with k = 128 they do not, and backends multiply directly."""
    packed, state = kq.quantize_4bit(randn(9, k), layout="flat", compress_statistics=nested)
    weight = kq.dequantize_4bit(packed, state).double()
    x = randn(2, 5, k, seed=8).requires_grad_()
    bias = randn(9, seed=9)
    y = kq.linear_4bit(x, packed, state, bias)
    exact = linear(x.double(), weight, bias.double())
    magnitude = linear(x.double().abs(), weight.abs(), bias.double().abs())
    assert ((y.double() - exact).abs() <= bound(magnitude, exact, k, torch.float32)).all()
    grad = randn(2, 5, 9, seed=10)
    y.backward(grad)
    exact = grad.double() @ weight
    magnitude = grad.double().abs() @ weight.abs()
    assert ((x.grad.double() - exact).abs() <= bound(magnitude, exact, 9, torch.float32)).all()


@pytest.mark.parametrize(
    ("lead", "n", "k"), [((0,), 5, 64), ((2, 0, 3), 5, 64), ((3,), 0, 64), ((3,), 5, 0)]
)
def test_empty(lead: tuple[int, ...], n: int, k: int) -> None:
    packed, state = kq.quantize_4bit(randn(n, k))
    x = randn(*lead, k).requires_grad_()
    bias = randn(n).requires_grad_()
    y = kq.linear_4bit(x, packed, state, bias)
    assert torch.equal(y, bias.expand(*lead, n))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_inputs_of_any_strides() -> None:
    packed, state = kq.quantize_4bit(randn(6, 70))
    x, bias = randn(70, 4).t(), randn(12)[::2]
    expected = kq.linear_4bit(x.contiguous(), packed, state, bias.contiguous())
    assert torch.equal(kq.linear_4bit(x, packed, state, bias), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_like_linear(dtype: torch.dtype) -> None:
    packed, state = kq.quantize_4bit(randn(6, 70))
    x, bias = randn(4, 70).requires_grad_(), randn(6).requires_grad_()
    expected = kq.linear_4bit(x.to(dtype), packed, state, bias.to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        y = kq.linear_4bit(x, packed, state, bias)
        assert linear(x, randn(6, 70)).dtype == y.dtype == dtype
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert x.grad.dtype == bias.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=dtype, enabled=False):
        assert kq.linear_4bit(x, packed, state, bias).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_autocast_does_not_accept_other_dtypes(dtype: torch.dtype) -> None:
    packed, state = kq.quantize_4bit(randn(6, 70))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TypeError, match="x must be one of float32, bfloat16, float16"),
    ):
        kq.linear_4bit(torch.ones(4, 70, dtype=dtype), packed, state)


@pytest.mark.parametrize("rows", [1, 2])
def test_ragged_flat_weights_do_not_depend_on_threads(rows: int) -> None:
    weight, x, grad = randn(129, 257), randn(rows, 257), randn(rows, 129)
    packed, state = kq.quantize_4bit(weight, layout="flat")
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = kq.linear_4bit(leaf, packed, state)
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    torch.set_num_threads(before)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_nothing_is_changed() -> None:
    packed, state = kq.quantize_4bit(randn(6, 70), compress_statistics=True)
    x, bias = randn(4, 70), randn(6)
    tensors = [x, packed, bias, *(t for t in state.scales if t is not None)]
    before = [t.clone() for t in tensors]
    kq.linear_4bit(x, packed, state, bias)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


PACKED, STATE = kq.quantize_4bit(torch.ones(6, 70))
_, STATE8 = kq.quantize_blockwise(torch.ones(6, 70))
CUBE, CUBE_STATE = kq.quantize_4bit(torch.ones(2, 6, 70))
X = torch.ones(4, 70)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kq.linear_4bit(torch.ones(4, 69), PACKED, STATE),
            ValueError,
            r"the last dimension of x must be 70 for a weight of shape \(6, 70\), got .*\(4, 69\)",
        ),
        (
            lambda: kq.linear_4bit(torch.ones(()), PACKED, STATE),
            ValueError,
            "the last dimension of x must be 70",
        ),
        (
            lambda: kq.linear_4bit(X.double(), PACKED, STATE),
            TypeError,
            "x must be one of float32, bfloat16, float16, got float64",
        ),
        (
            lambda: kq.linear_4bit(X, PACKED, STATE8),
            ValueError,
            "quant_state must be of 4-bit codes",
        ),
        (
            lambda: kq.linear_4bit(X, CUBE, CUBE_STATE),
            ValueError,
            r"the weight must have two dimensions, got shape \(2, 6, 70\)",
        ),
        (
            lambda: kq.linear_4bit(X, PACKED[:5], STATE),
            ValueError,
            "packed must have 210 elements, got 175",
        ),
        (
            lambda: kq.linear_4bit(X, PACKED.to("meta"), STATE),
            ValueError,
            "packed must be on cpu like x, got meta",
        ),
        (
            lambda: kq.linear_4bit(X, PACKED, STATE, torch.ones(5)),
            ValueError,
            "bias must have 6 elements, got 5",
        ),
        (
            lambda: kq.linear_4bit(X, PACKED, STATE, torch.ones(6).half()),
            TypeError,
            "bias must be float32, got float16",
        ),
        (
            lambda: torch.ops.kq.linear_4bit_backward(
                X, PACKED, STATE.absmax, (6, 70), 64, "nf4", "row"
            ),
            ValueError,
            "the last dimension of grad must be 6",
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
