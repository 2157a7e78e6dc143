"""int8_linear: values within derived bounds, gradients, autocast, shapes, compiling, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

import kq_functional as kq
from kq_functional import eager
from kq_functional.int8_format import MAX_INNER
from kq_functional.ops import int8_linear as ops

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
TINY = {torch.float32: 2.0**-150, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25}
U = UNIT[torch.float32]


def randn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_outliers(*shape: int) -> Tensor:
    """Normal numbers, and ten times those in every eleventh column."""
    x = randn(*shape, seed=8)
    x[..., 5::11] *= 10
    return x


def gamma(count: int) -> float:
    """γ_n = n u / (1 − n u) for n float32 operations in any order (Higham, section 3.1)."""
    product = count * U
    return product / (1 - product)


def weight(n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and the float64 values that they decode to."""
    codes, absmax, _ = kq.int8_vectorwise_quant(randn(n, k))
    return codes, absmax, codes.double() * absmax.double().unsqueeze(1) / 127


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 6.0, 1.0, 1e-6])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("lead", "n", "k"), [((1,), 48, 128), ((5,), 33, 71), ((2, 3), 7, 1100), ((), 16, 64)]
)
def test_forward_within_bound(
    dtype: torch.dtype,
    threshold: float,
    with_bias: bool,
    lead: tuple[int, ...],
    n: int,
    k: int,
) -> None:
    """The codes of x are those of `int8_vectorwise_quant`; the rest is float64."""
    codes, absmax, values = weight(n, k)
    x = with_outliers(*lead, k).to(dtype)
    bias = randn(n, seed=9).to(dtype) if with_bias else None
    y = kq.int8_linear(x, codes, absmax, bias, threshold)
    assert y.dtype == dtype
    assert y.shape == (*lead, n)
    x_codes, x_absmax, columns = kq.int8_vectorwise_quant(x, threshold)
    scaled = (x_codes.double() @ codes.double().t()) * x_absmax.double().unsqueeze(-1)
    scaled = scaled * absmax.double() / 127**2
    # The sum to float32, the product of scales, that with the constant, its product with the sum.
    error = scaled.abs() * ((1 + U) ** 5 - 1)
    exact, size = scaled, scaled.abs()
    if columns is not None:
        chosen, decoded = x.double()[..., columns], values[:, columns]
        exact = exact + chosen @ decoded.t()
        products = chosen.abs() @ decoded.abs().t()
        # Each value of the weight takes two roundings.
        error, size = error + gamma(len(columns) + 2) * products, size + products
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    error = error + 2 * U * (size + error)  # both additions
    error = error + UNIT[dtype] * (exact.abs() + error) + TINY[dtype]
    assert ((y.double() - exact).abs() <= error).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize(("lead", "n", "k"), [((5,), 33, 71), ((2, 3), 7, 128), ((), 16, 64)])
def test_gradients_within_bound(
    dtype: torch.dtype, threshold: float, lead: tuple[int, ...], n: int, k: int
) -> None:
    """grad_x = grad W, whatever was rounded or an outlier; grad_bias = Σ grad."""
    codes, absmax, values = weight(n, k)
    x = with_outliers(*lead, k).to(dtype).requires_grad_()
    bias = randn(n, seed=9).to(dtype).requires_grad_()
    grad = randn(*lead, n, seed=10).to(dtype)
    kq.int8_linear(x, codes, absmax, bias, threshold).backward(grad)
    exact, size = grad.double() @ values, grad.double().abs() @ values.abs()
    # Two roundings of the weight; in a narrow dtype one more of it, and of the result.
    error = gamma(n + 2) * size
    if dtype != torch.float32:
        error = error + UNIT[dtype] * (size + error) + n * TINY[dtype]
    error = error + UNIT[dtype] * (exact.abs() + error) + TINY[dtype]
    assert x.grad.dtype == dtype
    assert ((x.grad.double() - exact).abs() <= error).all()
    rows = grad.double().view(-1, n)
    total, sizes = rows.sum(0), rows.abs().sum(0)
    error = gamma(len(rows)) * sizes
    error = error + UNIT[dtype] * (total.abs() + error)
    assert ((bias.grad.double() - total).abs() <= error).all()


def test_only_what_needs_a_gradient_gets_one() -> None:
    codes, absmax, _ = weight(4, 64)
    x, bias = randn(3, 64), randn(4)
    assert not kq.int8_linear(x, codes, absmax, bias).requires_grad
    bias.requires_grad_()
    kq.int8_linear(x, codes, absmax, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((4,), 3.0))
    x.requires_grad_()
    with torch.no_grad():
        assert not kq.int8_linear(x, codes, absmax, bias).requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_derivative(dtype: torch.dtype) -> None:
    """Differentiating grad W by grad multiplies by Wᵀ; a third time, by W again."""
    codes, absmax, values = weight(4, 64)
    grad = randn(3, 4).to(dtype).requires_grad_()
    product = torch.ops.kq.int8_linear_backward(grad, codes, absmax)
    factor = randn(3, 64, seed=11).to(dtype).requires_grad_()
    (second,) = torch.autograd.grad(product, grad, factor, create_graph=True)
    exact, size = factor.double() @ values.t(), factor.double().abs() @ values.abs().t()
    error = gamma(64 + 5) * size
    error = error + UNIT[dtype] * (exact.abs() + error) + TINY[dtype]
    assert second.dtype == dtype
    assert ((second.double() - exact).abs() <= error).all()
    (third,) = torch.autograd.grad(second.sum(), factor)
    exact, size = values.sum(0).expand(3, 64), values.abs().sum(0).expand(3, 64)
    error = (gamma(4 + 5) + UNIT[dtype]) * size
    assert ((third.double() - exact).abs() <= error + UNIT[dtype] * exact.abs()).all()


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize(
    ("lead", "n", "k"), [((0,), 5, 64), ((2, 0, 3), 5, 64), ((3,), 0, 64), ((3,), 5, 0)]
)
def test_empty(lead: tuple[int, ...], n: int, k: int, threshold: float) -> None:
    codes, absmax, _ = weight(n, k)
    x = randn(*lead, k).requires_grad_()
    bias = randn(n).requires_grad_()
    y = kq.int8_linear(x, codes, absmax, bias, threshold)
    assert torch.equal(y, bias.expand(*lead, n))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_inputs_of_any_strides(threshold: float) -> None:
    codes, absmax, _ = weight(6, 70)
    x, bias = with_outliers(70, 4).t(), randn(12)[::2]
    expected = kq.int8_linear(x.contiguous(), codes, absmax, bias.contiguous(), threshold)
    wide = codes.repeat_interleave(2, 1)[:, ::2]
    scales = absmax.repeat_interleave(2)[::2]
    assert torch.equal(kq.int8_linear(x, wide, scales, bias, threshold), expected)


def test_scales_as_modules_store_them() -> None:
    codes, absmax, _ = weight(6, 70)
    x = randn(4, 70)
    expected = kq.int8_linear(x, codes, absmax)
    bits = absmax.view(torch.int32)
    assert torch.equal(kq.int8_linear(x, codes, bits), expected)
    assert torch.equal(kq.int8_linear(x.requires_grad_(), codes, bits), expected)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_a_row_does_not_depend_on_the_others(threshold: float) -> None:
    """With a threshold it does on which columns have outliers: then as if they all had them."""
    codes, absmax, _ = weight(33, 130)
    x = with_outliers(40, 130) if threshold else randn(40, 130)
    x[:, 5::11] = 7.0 if threshold else 0.5
    whole = kq.int8_linear(x, codes, absmax, None, threshold)
    for rows in (slice(0, 1), slice(3, 8), slice(7, 40)):
        assert torch.equal(kq.int8_linear(x[rows], codes, absmax, None, threshold), whole[rows])


@pytest.mark.parametrize("rows", [1, 2, 17])
def test_results_do_not_depend_on_threads(rows: int) -> None:
    codes, absmax, _ = weight(129, 1257)
    x, grad = with_outliers(rows, 1257), randn(rows, 129)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = kq.int8_linear(leaf, codes, absmax, None, 6.0)
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    torch.set_num_threads(before)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("threshold", [0.0, 6.0, 1e-6])
def test_nothing_is_changed(threshold: float) -> None:
    codes, absmax, _ = weight(6, 70)
    tensors = [with_outliers(4, 70), codes, absmax, randn(6)]
    before = [t.clone() for t in tensors]
    kq.int8_linear(*tensors, threshold)
    x = tensors[0].requires_grad_()
    kq.int8_linear(x, *tensors[1:], threshold).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_damage_shows_in_its_own_row() -> None:
    codes, absmax, _ = weight(6, 70)
    x = randn(4, 70)
    x[1, 3], x[2, 5] = math.nan, math.inf
    y = kq.int8_linear(x, codes, absmax)
    assert y.isnan().any(1).tolist() == [False, True, True, False]
    assert y[1:3].isnan().all()
    # An infinite outlier is multiplied as it is; in its column the others stay what they are.
    y = kq.int8_linear(x, codes, absmax, None, 6.0)
    assert y[1].isnan().all()
    assert not y[2].isfinite()[codes[:, 5] != 0].any()
    assert y[[0, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_like_linear(dtype: torch.dtype) -> None:
    codes, absmax, _ = weight(6, 70)
    x, bias = with_outliers(4, 70).requires_grad_(), randn(6).requires_grad_()
    expected = kq.int8_linear(x.to(dtype), codes, absmax, bias.to(dtype), 6.0)
    with torch.autocast("cpu", dtype=dtype):
        y = kq.int8_linear(x, codes, absmax, bias, 6.0)
        assert linear(x, randn(6, 70)).dtype == y.dtype == dtype
        # The products inside are those of float32 also where autocast would make others of them.
        assert kq.int8_linear_matmul(codes, codes).dtype == torch.int32
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert x.grad.dtype == bias.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=dtype, enabled=False):
        assert kq.int8_linear(x, codes, absmax, bias).dtype == torch.float32


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_what_is_saved_is_the_weight(threshold: float) -> None:
    codes, absmax, _ = weight(6, 70)
    saved: list[Tensor] = []
    x = with_outliers(4, 70).requires_grad_()
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kq.int8_linear(x, codes, absmax, randn(6).requires_grad_(), threshold)
    assert {t.data_ptr() for t in saved} == {codes.data_ptr(), absmax.data_ptr()}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    codes, absmax, _ = weight(6, 70)
    x, bias = with_outliers(4, 70).requires_grad_(), randn(6).requires_grad_()
    expected = torch.autograd.grad(
        kq.int8_linear(x * 2, codes, absmax, bias, 6.0).square().sum(), (x, bias)
    )
    checkpoint(
        lambda x: kq.int8_linear(x * 2, codes, absmax, bias, 6.0).square().sum(),
        x,
        use_reentrant=use_reentrant,
    ).backward()
    assert torch.equal(x.grad, expected[0])
    assert torch.equal(bias.grad, expected[1])


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compile_for_any_threshold(compiler: str) -> None:
    codes, absmax, _ = weight(6, 70)

    def function(x: Tensor, bias: Tensor, threshold: float) -> Tensor:
        return kq.int8_linear(x * 2, codes, absmax.view(torch.int32), bias, threshold)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for threshold in (0.0, 6.0, 5.0):
        results = []
        for each in (function, compiled):
            x, bias = with_outliers(2, 3, 70).requires_grad_(), randn(6).requires_grad_()
            y = each(x, bias, threshold)
            y.backward(torch.ones_like(y))
            results.append((y, x.grad, bias.grad))
        for plain, traced in zip(*results, strict=True):
            # Sums of ones and products by 2 are exact, and the op itself is the same call.
            assert torch.equal(plain, traced)


def test_export_with_a_dynamic_batch() -> None:
    codes, absmax, _ = weight(6, 70)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return kq.int8_linear(x, codes, absmax, None, 6.0)

    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(Layer(), (torch.ones(3, 70),), dynamic_shapes=(batch,))
    x = with_outliers(11, 70)
    assert torch.equal(program.module()(x), Layer()(x))


def test_meta_tensors() -> None:
    codes, absmax, _ = kq.int8_vectorwise_quant(torch.empty(6, 71, device="meta"))
    x = torch.empty(2, 71, device="meta").requires_grad_()
    y = kq.int8_linear(x, codes, absmax, threshold=6.0)
    assert (y.shape, y.device.type) == ((2, 6), "meta")
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_the_short_way_has_the_bits_of_the_op(threshold: float, backend: str) -> None:
    codes, absmax, _ = weight(6, 70)
    x, bias = with_outliers(2, 4, 70), randn(6)
    expected = ops.int8_linear_inference(x, codes, absmax, bias, threshold)
    for scales in (absmax, absmax.view(torch.int32)):
        short = eager.int8_linear(x, bias, codes, scales, threshold)
        assert (short is None) == (backend == "torch")  # which has no short way
        assert short is None or torch.equal(short, expected)
        assert torch.equal(kq.int8_linear(x, codes, scales, bias, threshold), expected)


X = torch.ones(4, 70)
CODES = torch.ones(6, 70, dtype=torch.int8)
SCALES = torch.ones(6)
LONG = torch.ones(1, MAX_INNER + 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kq.int8_linear(torch.ones(4, 69), CODES, SCALES),
            ValueError,
            r"the last dimension of x must be 70 for a weight of shape \(6, 70\), got .*\(4, 69\)",
        ),
        (
            lambda: kq.int8_linear(torch.ones(()), CODES, SCALES),
            ValueError,
            "the last dimension of x must be 70",
        ),
        (
            lambda: kq.int8_linear(X.double(), CODES, SCALES),
            TypeError,
            "x must be one of float32, bfloat16, float16, got float64",
        ),
        (
            lambda: kq.int8_linear(X, CODES.float(), SCALES),
            TypeError,
            "weight must be int8, got float32",
        ),
        (
            lambda: kq.int8_linear(X, CODES[0], SCALES),
            ValueError,
            r"the weight must have two dimensions, got shape \(70,\)",
        ),
        (
            lambda: kq.int8_linear(X, CODES.to("meta"), SCALES),
            ValueError,
            "weight must be on cpu like x, got meta",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES[:5]),
            ValueError,
            "absmax must have 6 elements, got 5",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES.view(6, 1)),
            ValueError,
            r"absmax must have shape \(6,\), got \(6, 1\)",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES.half()),
            TypeError,
            "absmax must be float32, got float16",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES, torch.ones(5)),
            ValueError,
            "bias must have 6 elements, got 5",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES, torch.ones(6).half()),
            TypeError,
            "bias must be float32, got float16",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES, 1.0),
            TypeError,
            "bias must be a torch.Tensor or None, got float",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES, None, -6.0),
            ValueError,
            "threshold must be finite and at least 0, got -6.0",
        ),
        (
            lambda: kq.int8_linear(X, CODES, SCALES, None, True),
            TypeError,
            "threshold must be a float, got bool",
        ),
        (
            lambda: kq.int8_linear(LONG, LONG.to(torch.int8), SCALES[:1]),
            ValueError,
            "the inner dimension must be at most 131072, got 131073",
        ),
        (
            lambda: torch.ops.kq.int8_linear_backward(X, CODES, SCALES),
            ValueError,
            "the last dimension of grad must be 6",
        ),
    ],
)
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
