"""linear_4bit_grouped: the bits of linear_4bit expert by expert, gradients, errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import kq_functional as kq

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
COUNTS = {
    "uneven": (0, 3, 0, 21, 0, 0, 1, 5, 0),
    "all to one": (0, 0, 40, 0),
    "one row each": (1,) * 6,
    "one expert": (9,),
    "many experts": tuple(i % 7 == 0 for i in range(64)),
    "no rows": (0, 0, 0),
    "no experts": (),
}


def randn(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expert_state(state: kq.QuantState, expert: int) -> kq.QuantState:
    """The state of one expert's weight, its scales decoded: nested blocks may straddle experts."""
    absmax, nested_absmax, nested_code, offset = state.scales
    if nested_absmax is not None:
        inner = nested_absmax.repeat_interleave(256)[: absmax.numel()].view(absmax.shape)
        absmax = nested_code[absmax.int()] * inner + offset
    return replace(
        state, absmax=absmax[expert], shape=state.shape[1:], offset=None, state2=None, layout="row"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("n", "k", "blocksize"), [(33, 257, 32), (24, 128, 64), (7, 1, 64)])
@pytest.mark.parametrize("name", COUNTS)
def test_bits_of_linear_4bit(
    dtype: torch.dtype, nested: bool, n: int, k: int, blocksize: int, name: str
) -> None:
    counts = [int(count) for count in COUNTS[name]]
    shape = (len(counts), n, k)
    packed, state = kq.quantize_4bit(randn(*shape), blocksize=blocksize, compress_statistics=nested)
    x = randn(sum(counts), k, seed=8).to(dtype).requires_grad_()
    bias = randn(*shape[:2], seed=9).to(dtype).requires_grad_()
    grad = randn(sum(counts), n, seed=10).to(dtype)
    y = kq.linear_4bit_grouped(x, packed, state, counts, bias)
    assert y.dtype == dtype
    assert y.shape == (sum(counts), n)
    y.backward(grad)
    assert torch.equal(y.detach(), kq.linear_4bit_grouped(x, packed, state, counts, bias).detach())
    start = 0
    for expert, count in enumerate(counts):
        rows = slice(start, start + count)
        start += count
        own_x, own_bias = (each.detach().requires_grad_() for each in (x[rows], bias[expert]))
        expected = kq.linear_4bit(own_x, packed[expert], expert_state(state, expert), own_bias)
        expected.backward(grad[rows])
        assert torch.equal(y[rows], expected)
        assert torch.equal(x.grad[rows], own_x.grad)
        assert torch.equal(bias.grad[expert], own_bias.grad)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("k", [128, 71])
def test_flat_layout(k: int, nested: bool) -> None:
    """With k = 128 no block crosses a row, so that backends get it; with k = 71 it is decoded."""
    counts, n = [2, 0, 5, 1], 9
    packed, state = kq.quantize_4bit(randn(4, n, k), layout="flat", compress_statistics=nested)
    weight = kq.dequantize_4bit(packed, state)
    x = randn(8, k, seed=8).sign().requires_grad_()
    bias, grad = randn(4, n, seed=9), randn(8, n, seed=10)
    y = kq.linear_4bit_grouped(x, packed, state, counts, bias)
    y.backward(grad)
    start = 0
    for expert, count in enumerate(counts):
        rows = slice(start, start + count)
        start += count
        own, added = weight[expert].double(), bias[expert].double()
        # A sum of k products and a bias in float32, in any order (Higham, section 3.1).
        for got, exact, size, terms in (
            (
                y[rows],
                x[rows].double() @ own.T + added,
                x[rows].double().abs() @ own.abs().T + added.abs(),
                k + 1,
            ),
            (
                x.grad[rows],
                grad[rows].double() @ own,
                grad[rows].double().abs() @ own.abs(),
                n,
            ),
        ):
            roundings = (terms + 1) * 2.0**-24
            bound = roundings / (1 - roundings) * size
            assert ((got.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize(
    "given",
    [
        (2, 0, 3),
        torch.tensor([2, 0, 3]),
        torch.tensor([2, 0, 3], dtype=torch.int32),
        torch.tensor([2, 9, 0, 9, 3])[::2],
    ],
    ids=["tuple", "int64", "int32", "strided"],
)
def test_counts_of_any_kind(given: Sequence[int] | torch.Tensor) -> None:
    packed, state = kq.quantize_4bit(randn(3, 6, 70))
    x = randn(5, 70)
    expected = kq.linear_4bit_grouped(x, packed, state, [2, 0, 3])
    assert torch.equal(kq.linear_4bit_grouped(x, packed, state, given), expected)


def test_inputs_of_any_strides() -> None:
    packed, state = kq.quantize_4bit(randn(2, 6, 70))
    bias = randn(2, 12)[:, ::2]
    for x in (randn(70, 5).t(), randn(5, 90)[:, 10:80], randn(1, 70).expand(5, 70)):
        leaf, dense = x.detach().requires_grad_(), x.contiguous().requires_grad_()
        y = kq.linear_4bit_grouped(leaf, packed, state, [2, 3], bias)
        expected = kq.linear_4bit_grouped(dense, packed, state, [2, 3], bias.contiguous())
        assert torch.equal(y, expected)
        grad = randn(6, 5).t()
        y.backward(grad)
        expected.backward(grad.contiguous())
        assert torch.equal(leaf.grad, dense.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_like_linear(dtype: torch.dtype) -> None:
    packed, state = kq.quantize_4bit(randn(2, 6, 70))
    x, bias = randn(4, 70).requires_grad_(), randn(2, 6).requires_grad_()
    expected = kq.linear_4bit_grouped(x.to(dtype), packed, state, [1, 3], bias.to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        y = kq.linear_4bit_grouped(x, packed, state, [1, 3], bias)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert x.grad.dtype == bias.grad.dtype == torch.float32


def test_only_what_needs_a_gradient_gets_one() -> None:
    packed, state = kq.quantize_4bit(randn(2, 4, 64))
    x, bias = randn(3, 64), randn(2, 4)
    assert not kq.linear_4bit_grouped(x, packed, state, [3, 0], bias).requires_grad
    bias.requires_grad_()
    kq.linear_4bit_grouped(x, packed, state, [3, 0], bias).sum().backward()
    assert torch.equal(bias.grad, torch.tensor([[3.0] * 4, [0.0] * 4]))
    x.requires_grad_()
    with torch.no_grad():
        assert not kq.linear_4bit_grouped(x, packed, state, [3, 0], bias).requires_grad


def test_second_derivative() -> None:
    """Those of linear_4bit, expert by expert."""
    packed, state = kq.quantize_4bit(randn(2, 4, 64))
    x = randn(3, 64).requires_grad_()

    def second(y: torch.Tensor) -> torch.Tensor:
        (grad,) = torch.autograd.grad(y.square().sum() / 2, x, create_graph=True)
        return torch.autograd.grad(grad.sum(), x)[0]

    parts = [
        kq.linear_4bit(rows, packed[expert], expert_state(state, expert))
        for expert, rows in enumerate(x.split([1, 2]))
    ]
    found = second(kq.linear_4bit_grouped(x, packed, state, [1, 2]))
    assert torch.equal(found, second(torch.cat(parts)))


def test_second_derivative_through_the_bias() -> None:
    """The gradient of a bias adds up rows; its own gradient goes back to each of them."""
    packed, state = kq.quantize_4bit(torch.ones(2, 4, 64))
    bias, upstream = torch.zeros(2, 4).requires_grad_(), torch.ones(3, 4).requires_grad_()
    y = kq.linear_4bit_grouped(torch.ones(3, 64), packed, state, [1, 2], bias)
    (grad,) = torch.autograd.grad(y, bias, upstream, create_graph=True)
    weights = torch.arange(8.0).view(2, 4)
    (second,) = torch.autograd.grad(grad, upstream, weights)
    assert torch.equal(second, weights[[0, 1, 1]])


@pytest.mark.parametrize("rows", [1, 20])
def test_threads_do_not_change_a_bit(rows: int) -> None:
    packed, state = kq.quantize_4bit(randn(3, 129, 257), compress_statistics=True)
    x, grad = randn(2 * rows, 257), randn(2 * rows, 129)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = kq.linear_4bit_grouped(leaf, packed, state, [rows, 0, rows])
        y.backward(grad)
        results.append((y.detach(), leaf.grad))
    torch.set_num_threads(before)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_a_damaged_expert_spoils_no_other() -> None:
    weight = randn(4, 6, 70)
    weight[1, 2, 3], weight[2, 0, 69] = torch.nan, torch.inf
    packed, state = kq.quantize_4bit(weight)
    y = kq.linear_4bit_grouped(randn(30, 70), packed, state, [10, 9, 0, 11])
    assert torch.equal(y.isnan().any(1), torch.tensor([False] * 10 + [True] * 9 + [False] * 11))


PACKED, STATE = kq.quantize_4bit(torch.ones(2, 6, 70))
MATRIX, MATRIX_STATE = kq.quantize_4bit(torch.ones(6, 70))
_, STATE8 = kq.quantize_blockwise(torch.ones(2, 6, 70))
X = torch.ones(4, 70)
RIGHT = {"x": X, "packed": PACKED, "quant_state": STATE, "counts": [1, 3]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X[:, 1:]}, ValueError, r"x must have two dimensions, the last of 70, .*\(4, 69\)"),
        ({"x": X[None]}, ValueError, r"x must have two dimensions, .* got shape \(1, 4, 70\)"),
        ({"x": X.double()}, TypeError, "x must be one of float32, bfloat16, float16, got float64"),
        ({"x": None}, TypeError, "x must be a torch.Tensor, got NoneType"),
        ({"packed": PACKED[:1]}, ValueError, "packed must have 420 elements, got 210"),
        ({"packed": PACKED.to("meta")}, ValueError, "packed must be on cpu like x, got meta"),
        (
            {"packed": MATRIX, "quant_state": MATRIX_STATE},
            ValueError,
            r"the weight must have three dimensions, got shape \(6, 70\)",
        ),
        ({"quant_state": STATE8}, ValueError, "quant_state must be of 4-bit codes"),
        ({"counts": [4]}, ValueError, r"counts must have shape \(2,\), got \(1,\)"),
        ({"counts": [1, 2]}, ValueError, r"counts must add up to the 4 rows of x, got \[1, 2\]"),
        ({"counts": [-1, 5]}, ValueError, r"counts must be numbers of rows >= 0, got \[-1, 5\]"),
        ({"counts": [2**63, 0]}, ValueError, "counts must be numbers below 2\\^63"),
        ({"counts": [2**62, 2**62]}, ValueError, "counts must add up to the 4 rows"),
        ({"counts": [1.0, 3]}, TypeError, r"counts\[0\] must be a int, got float"),
        ({"counts": 4}, TypeError, "counts must be a sequence, got int"),
        ({"counts": torch.ones(2)}, TypeError, "counts must be one of int64, int32, got float32"),
        ({"counts": torch.tensor([[1, 3]])}, ValueError, r"counts must have shape \(2,\)"),
        (
            {"counts": torch.tensor([1, 3]).to("meta")},
            ValueError,
            "counts must hold numbers to be read, got a tensor on meta",
        ),
        ({"bias": torch.ones(6)}, ValueError, "bias must have 12 elements, got 6"),
        ({"bias": torch.ones(12)}, ValueError, r"bias must have shape \(2, 6\), got \(12,\)"),
        ({"bias": torch.ones(2, 6).half()}, TypeError, "bias must be float32, got float16"),
    ],
)
def test_bad_arguments(changes: dict, error: type[Exception], message: str) -> None:
    kq.linear_4bit_grouped(**RIGHT)
    with pytest.raises(error, match=message):
        kq.linear_4bit_grouped(**(RIGHT | changes))
