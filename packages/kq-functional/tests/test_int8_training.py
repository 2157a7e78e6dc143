"""int8_linear_training: the product of int8_linear, and gradients as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import kq_functional as kq
from kq_functional.backends import _torch_int8
from kq_functional.int8_format import MAX_INNER
from kq_functional.ops import int8_columns

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
U = UNIT[torch.float32]


def randn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_outliers(*shape: int) -> Tensor:
    x = randn(*shape, seed=8)
    x[..., 5::11] *= 10
    return x


def gamma(count: int) -> float:
    """γ_n = n u / (1 − n u) for n float32 operations in any order (Higham, section 3.1)."""
    return count * U / (1 - count * U)


def leaves(dtype: torch.dtype = torch.float32, n: int = 6, k: int = 70) -> list[Tensor]:
    x, bias = with_outliers(2, 4, k).to(dtype), randn(n, seed=9).to(dtype)
    return [t.requires_grad_() for t in (x, randn(n, k), bias)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_forward_and_inputs_are_those_of_the_frozen_layer(
    dtype: torch.dtype, threshold: float
) -> None:
    x, weight, bias = leaves(dtype)
    codes, absmax, _ = kq.int8_vectorwise_quant(weight)
    grad = randn(2, 4, 6, seed=10).to(dtype)
    products = (
        kq.int8_linear_training(x, weight, bias, threshold),
        kq.int8_linear(x, codes, absmax, bias, threshold),
    )
    results = [(y, *torch.autograd.grad(y, (x, bias), grad)) for y in products]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 6.0, 1e-6])
@pytest.mark.parametrize("lead", [(9,), (2, 4), ()])
def test_weight_gradient_within_bound(
    dtype: torch.dtype, weight_dtype: torch.dtype, threshold: float, lead: tuple[int, ...]
) -> None:
    """Quantized columns, multiplied in float64, and outlier columns as they are."""
    x, weight = with_outliers(*lead, 70).to(dtype), randn(6, 70).to(weight_dtype).requires_grad_()
    grad = randn(*lead, 6, seed=10).to(dtype)
    kq.int8_linear_training(x, weight, None, threshold).backward(grad)
    _, x_codes, _, x_absmax, columns = kq.int8_double_quant(x, threshold)
    _, grad_codes, _, grad_absmax, _ = kq.int8_double_quant(grad)
    sums = grad_codes.double().view(-1, 6).t() @ x_codes.double().view(-1, 70)
    exact = sums * grad_absmax.double().unsqueeze(1) * x_absmax.double() / 127**2
    error = exact.abs() * ((1 + U) ** 5 - 1)
    if columns is not None:
        left, right = grad.double().view(-1, 6).t(), x.double().view(-1, 70)[:, columns]
        exact[:, columns] += left @ right
        # Products of float32 numbers, added up in float32 at worst.
        rows = x.shape[:-1].numel()
        error[:, columns] += gamma(rows) * (left.abs() @ right.abs())
        error += U * (exact.abs() + error)
    error = error + UNIT[weight_dtype] * (exact.abs() + error) + 2.0**-25
    assert weight.grad.dtype == weight_dtype
    assert ((weight.grad.double() - exact).abs() <= error).all()


def test_the_weight_gradient_is_near_that_of_the_dense_layer() -> None:
    """Within what rounding both factors to codes can do, element by element."""
    x, weight, bias = leaves()
    grad = randn(2, 4, 6, seed=10)
    for threshold in (0.0, 6.0):
        y = kq.int8_linear_training(x, weight, bias, threshold)
        (found,) = torch.autograd.grad(y, weight, grad)
        left, right = grad.double().view(-1, 6), x.detach().double().view(-1, 70)
        counted = right.masked_fill(right.abs() >= threshold, 0) if threshold else right
        # Half a code, and what two float32 roundings of 127 x / absmax may add to it.
        half = 0.5 + 127 * (2 * U + U * U)
        steps = [half / 127 * t.abs().amax(0) for t in (left, counted)]
        sizes = [t.abs() + step for t, step in zip((left, right), steps, strict=True)]
        spread = sizes[0].t() @ sizes[1] - left.abs().t() @ right.abs()
        # Sums of 8 products of outliers, or 5 roundings of scales; the addition of both.
        arithmetic = gamma(8 + 5 + 1) * (sizes[0].t() @ sizes[1])
        assert ((found - left.t() @ right).abs() <= spread + arithmetic).all()


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize(
    ("lead", "n", "k"), [((0,), 5, 64), ((2, 0, 3), 5, 64), ((3,), 0, 64), ((3,), 5, 0)]
)
def test_empty(lead: tuple[int, ...], n: int, k: int, threshold: float) -> None:
    x, weight, bias = (t.requires_grad_() for t in (randn(*lead, k), randn(n, k), randn(n)))
    y = kq.int8_linear_training(x, weight, bias, threshold)
    assert torch.equal(y, bias.expand(*lead, n))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("learning", [(True, False, False), (False, True, False)])
def test_only_what_learns_gets_a_gradient(learning: tuple[bool, ...]) -> None:
    x, weight, bias = (
        t.detach().requires_grad_(learns) for t, learns in zip(leaves(), learning, strict=True)
    )
    kq.int8_linear_training(x, weight, bias, 6.0).sum().backward()
    assert tuple(t.grad is not None for t in (x, weight, bias)) == learning


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_nothing_is_changed(threshold: float) -> None:
    tensors = leaves()
    before = [t.detach().clone() for t in tensors]
    kq.int8_linear_training(*tensors, threshold).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_what_is_saved() -> None:
    """Without a threshold nothing but int8 codes and their scales."""
    x, weight, bias = leaves()
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kq.int8_linear_training(x, weight, bias)
    assert {t.dtype for t in saved if t.ndim == 2} == {torch.int8}
    assert all(t.ndim == 1 for t in saved if t.dtype != torch.int8)
    saved.clear()
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kq.int8_linear_training(x, weight.detach(), bias, 6.0)
    assert x.data_ptr() not in {t.data_ptr() for t in saved}


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_activation_checkpointing(threshold: float) -> None:
    tensors = leaves()

    def loss(*tensors: Tensor) -> Tensor:
        return kq.int8_linear_training(*tensors, threshold).square().sum()

    expected = torch.autograd.grad(loss(*tensors), tensors)
    found = torch.autograd.grad(checkpoint(loss, *tensors, use_reentrant=False), tensors)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_compile(threshold: float, compiler: str) -> None:
    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return kq.int8_linear_training(x * 2, weight, bias, threshold)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    results = []
    for function in (loss, compiled):
        tensors = leaves()
        y = function(*tensors)
        y.backward(torch.ones_like(y))
        results.append((y, *(t.grad for t in tensors)))
    for eager, traced in zip(*results, strict=True):
        assert torch.equal(eager, traced)


def test_autocast_leaves_the_weight_alone() -> None:
    x, weight, bias = leaves()
    expected = kq.int8_linear_training(x.bfloat16(), weight, bias.bfloat16(), 6.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = kq.int8_linear_training(x, weight, bias, 6.0)
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert {t.grad.dtype for t in (x, weight, bias)} == {torch.float32}


def test_it_learns() -> None:
    """Descent through the quantized layer finds a linear map, up to what codes can express."""
    target, weight = randn(4, 16), torch.zeros(4, 16).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.05)
    x = randn(64, 16, seed=1)
    losses = []
    for _ in range(200):
        loss = (kq.int8_linear_training(x, weight) - x @ target.t()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_the_device_alone_knows_the_outliers(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All columns are multiplied, the others by zero: float64 sums here, so the same but for them.

    A sum of zeros more is another order of additions, which float32 can tell by a rounding.
    """
    x, grad = with_outliers(5, 70).to(dtype), randn(5, 6, seed=10).to(dtype)
    codes, absmax, _ = kq.int8_vectorwise_quant(randn(6, 70))
    outliers = (x.abs() >= 6).any(0)

    def results() -> tuple[Tensor, ...]:
        with kq.use_backend("torch"):
            y = kq.int8_linear(x.float(), codes, absmax, None, 6.0)
        return y, torch.ops.kq.int8_outlier_gradient(grad, x, outliers)

    expected = results()
    for module in (_torch_int8, int8_columns):
        monkeypatch.setattr(module, "is_host", lambda _: False)
    found = results()
    size = x.double().abs() @ (codes.double().abs() * absmax.unsqueeze(1) / 127).t()
    assert ((found[0] - expected[0]).abs() <= 4 * U * size).all()
    assert ((found[1] - expected[1]).abs() <= 2 * U * expected[1].abs()).all()
    assert (found[1][:, ~outliers] == 0).all()


X, WEIGHT = torch.ones(4, 70), torch.ones(6, 70)
TALL = torch.ones(MAX_INNER + 1, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kq.int8_linear_training(X, WEIGHT[:, 1:]),
            ValueError,
            "the last dimension of x must be 69 for a weight",
        ),
        (
            lambda: kq.int8_linear_training(X, WEIGHT.to(torch.int8)),
            TypeError,
            "weight must be one of float32, bfloat16, float16, got int8",
        ),
        (
            lambda: kq.int8_linear_training(X.double(), WEIGHT),
            TypeError,
            "x must be one of float32, bfloat16, float16, got float64",
        ),
        (
            lambda: kq.int8_linear_training(X, WEIGHT, torch.ones(5)),
            ValueError,
            "bias must have 6 elements, got 5",
        ),
        (
            lambda: kq.int8_linear_training(X, WEIGHT, None, float("nan")),
            ValueError,
            "threshold must be finite and at least 0, got nan",
        ),
        (
            lambda: kq.int8_linear_training(TALL, TALL[:2].clone().requires_grad_()),
            ValueError,
            "x must have at most 131072 rows for a weight that learns, got 131073",
        ),
        (lambda: kq.int8_linear_training(X, None), TypeError, "weight must be a torch.Tensor"),
    ],
)
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
