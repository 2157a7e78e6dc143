"""Kept columns of an int8 weight: what they hold, what they add to a product, bad arguments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kq_functional as kq

pytestmark = pytest.mark.usefixtures("backend")

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
DTYPES = pytest.mark.parametrize("dtype", UNIT)
N, K, J = 33, 71, 3
COLUMNS = torch.tensor([5, 60, 17])


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def keep(weight: Tensor, columns: Tensor = COLUMNS) -> tuple[Tensor, Tensor, kq.KeptColumns]:
    """Codes and scales of a weight, and its kept columns."""
    codes, absmax, _ = kq.int8_vectorwise_quant(weight)
    return codes, absmax, kq.int8_kept_columns(weight, columns, codes, absmax)


@DTYPES
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_codes_and_what_is_kept_give_the_weight(
    dtype: torch.dtype, index_dtype: torch.dtype
) -> None:
    weight = randn(N, K, dtype=dtype)
    codes, absmax, kept = keep(weight, COLUMNS.to(index_dtype))
    assert torch.equal(kept.columns, COLUMNS)
    assert kept.lost.dtype == torch.bfloat16
    exact = codes.double() * absmax.double()[:, None] / 127
    found = exact[:, COLUMNS] + kept.lost.double()
    # Half a code is 1/254 of the scale, and the code is that of a quotient rounded twice; then
    # bfloat16 rounds, and float32 has rounded the code's value, twice, and the difference.
    bound = absmax.double()[:, None] * ((1 / 254 + 2**-23) * 2.0**-8 * (1 + 2**-7) + 3 * 2.0**-24)
    assert ((found - weight.double()[:, COLUMNS]).abs() <= bound).all()


@DTYPES
@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("lead", [(1,), (5,), (2, 3), (), (0,)])
def test_product_gains_what_rounding_took(
    dtype: torch.dtype, threshold: float, with_bias: bool, lead: tuple[int, ...]
) -> None:
    x = randn(*lead, K, dtype=dtype, seed=8)
    x[..., 17] *= 30
    bias = randn(N, dtype=dtype, seed=9) if with_bias else None
    codes, absmax, kept = keep(randn(N, K))
    plain = kq.int8_linear(x, codes, absmax, bias, threshold)
    found = kq.int8_linear(x, codes, absmax, bias, threshold, kept)
    assert found.dtype == dtype
    assert found.shape == (*lead, N)
    chosen = x.double()[..., COLUMNS]
    exact = plain.double() + chosen @ kept.lost.double().T
    # Sums of J products and what was there, in dtype at worst; `lost` is rounded to dtype, in
    # float16 below its normal range by at most half of 2^-24.
    unit = UNIT[dtype]
    bound = unit * exact.abs()
    bound += (J + 2) * unit * (1 + 2**-6) * (chosen.abs() @ kept.lost.double().abs().T)
    bound += chosen.abs().sum(-1, keepdim=True) * 2.0**-25 * (dtype == torch.float16)
    bound += unit * plain.double().abs() * J
    assert ((found.double() - exact).abs() <= bound).all()


def test_large_inputs_meet_the_unrounded_weight() -> None:
    weight = randn(N, K)
    x = torch.zeros(2, K)
    x[1, 17] = 1000.0
    codes, absmax, kept = keep(weight)
    exact = x.double() @ weight.double().T
    found = kq.int8_linear(x, codes, absmax, None, 6.0, kept)
    without = kq.int8_linear(x, codes, absmax, None, 6.0)
    assert (found - exact).abs().max() < (without - exact).abs().max() / 100


@DTYPES
@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_gradient_is_that_of_both_parts(threshold: float, dtype: torch.dtype) -> None:
    codes, absmax, kept = keep(randn(N, K))
    x = randn(4, K, dtype=dtype, seed=8).requires_grad_()
    grad = randn(4, N, dtype=dtype, seed=9)
    bias = randn(N, dtype=dtype, seed=10).requires_grad_()
    kq.int8_linear(x, codes, absmax, bias, threshold, kept).backward(grad)
    whole = codes.double() * absmax.double()[:, None] / 127
    whole[:, COLUMNS] += kept.lost.double()
    # N products of three factors, summed in any order, for each part; both are rounded to dtype,
    # `lost` before and their sum after that, each at worst by 2^-25 below float16's normal range.
    error = (N + 6) * 2.0**-24 * 1.01 + 3 * UNIT[dtype] * (dtype != torch.float32)
    bound = error * (grad.double().abs() @ whole.abs()) + 2.0**-40
    bound[:, COLUMNS] *= 2
    bound += (dtype == torch.float16) * 2.0**-25 * (2 + grad.double().abs().sum(1, keepdim=True))
    assert x.grad is not None
    assert bias.grad is not None
    assert ((x.grad.double() - grad.double() @ whole).abs() <= bound).all()
    torch.testing.assert_close(bias.grad, grad.sum(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    codes, absmax, kept = keep(randn(N, K))
    x = randn(4, K, seed=8)
    with torch.autocast("cpu", dtype=dtype):
        found = kq.int8_linear(x, codes, absmax, threshold=6.0, kept=kept)
    expected = kq.int8_linear(x.to(dtype), codes, absmax, threshold=6.0, kept=kept)
    assert torch.equal(found, expected)


def test_damaged_rows() -> None:
    weight = randn(N, K)
    weight[2, 17], weight[4, 0] = torch.nan, torch.inf
    _, _, kept = keep(weight)
    assert kept.lost.isnan().any(1).nonzero().flatten().tolist() == [2, 4]


def test_no_columns() -> None:
    codes, absmax, kept = keep(randn(N, K), torch.empty(0, dtype=torch.int64))
    assert kept.lost.shape == (N, 0)
    x = randn(4, K, seed=8)
    expected = kq.int8_linear(x, codes, absmax)
    assert torch.equal(kq.int8_linear(x, codes, absmax, kept=kept), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"columns": [1, 2]}, TypeError, r"columns must be a torch.Tensor, got list"),
        ({"columns": torch.ones(2)}, ValueError, r"columns must be int32 or int64 \[J\], got"),
        ({"columns": COLUMNS[None]}, ValueError, r"columns must be .*, got torch.int64 \[1, 3\]"),
        ({"codes": torch.zeros(N, 4, dtype=torch.int8)}, ValueError, "weight and codes must have"),
        ({"weight": torch.zeros(N, K).double()}, TypeError, "weight must be one of float32"),
        ({"absmax": torch.ones(N).double()}, TypeError, "absmax must be float32"),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    weight = randn(N, K)
    codes, absmax, _ = kq.int8_vectorwise_quant(weight)
    arguments = {"weight": weight, "columns": COLUMNS, "codes": codes, "absmax": absmax} | change
    with pytest.raises(error, match=message):
        kq.int8_kept_columns(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"columns": COLUMNS[:2]}, ValueError, r"kept.lost must have shape \[33, 2\], got"),
        ({"columns": None}, TypeError, "kept.columns must be a torch.Tensor, got NoneType"),
        ({"lost": torch.zeros(N, J).short()}, TypeError, "kept.lost must be one of float32"),
        ({"lost": torch.zeros(N, J, device="meta")}, ValueError, "kept.lost must be on cpu"),
    ],
)
def test_kept_columns_that_do_not_fit(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    codes, absmax, kept = keep(randn(N, K))
    with pytest.raises(error, match=message):
        kq.int8_linear(torch.ones(K), codes, absmax, kept=kept._replace(**change))  # type: ignore[arg-type]
