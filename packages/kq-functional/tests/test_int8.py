"""Int8 rows and columns: codes, scales, outliers; products of codes and their scales."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kq_functional as kq
from kq_functional.int8_format import MAX_INNER, float32_threshold

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Half the distance of the numbers next to zero.
TINY = {torch.float32: 2.0**-150, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25}
U = UNIT[torch.float32]
# Two roundings of at most 127: what may separate 127 x / absmax from what is rounded to a code.
UNDECIDED = 127 * (2 * U + U * U)


def randn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check_rows(x: Tensor, codes: Tensor, absmax: Tensor, counted: Tensor, coded: Tensor) -> None:
    """Compare with the definition in float64: which elements count, which columns have codes."""
    values = x.double()
    whole = values.masked_fill(~counted, 0)
    expected = whole.abs().amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1]).double()
    assert torch.equal(absmax.double().nan_to_num(nan=-1), expected.nan_to_num(nan=-1))
    legible = (expected > 0) & expected.isfinite()
    ratio = 127 * whole / expected.where(legible, 1).unsqueeze(-1)
    ratio = ratio.where(legible.unsqueeze(-1) & coded, 0.0)
    assert ((codes.double() - ratio).abs() <= 0.5 + UNDECIDED).all()
    assert (codes[(~legible).unsqueeze(-1).expand(codes.shape)] == 0).all()
    assert (codes[(~coded).expand(codes.shape)] == 0).all()


def check_quantized(x: Tensor, threshold: float) -> None:
    before = x.clone()
    codes, absmax, columns = kq.int8_vectorwise_quant(x, threshold)
    assert torch.equal(x.nan_to_num(), before.nan_to_num())
    assert (codes.dtype, codes.shape) == (torch.int8, x.shape)
    assert (absmax.dtype, absmax.shape) == (torch.float32, x.shape[:-1])
    outlier = x.double().abs() >= (threshold or math.inf)
    outlier &= torch.tensor(threshold > 0)
    found = outlier.flatten(0, -2).any(0) if x.ndim > 1 else outlier
    if threshold:
        assert columns is not None
        assert columns.dtype == torch.int64
        assert columns.tolist() == found.nonzero().flatten().tolist()
    else:
        assert columns is None
    check_rows(x, codes, absmax, ~outlier, ~found)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 2.0, 2.3, 100.0, 1e-3])
@pytest.mark.parametrize("shape", [(5, 70), (2, 3, 33), (70,), (1, 1), (0, 5), (5, 0), (2, 0, 3)])
def test_rows(shape: tuple[int, ...], threshold: float, dtype: torch.dtype) -> None:
    check_quantized(randn(*shape).to(dtype), threshold)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_odd_numbers(dtype: torch.dtype, threshold: float) -> None:
    """Zeros, NaN, infinity, numbers at both ends of the range: each spoils its own row only."""
    rows = [
        [0.0, -0.0, 0.0],
        [1.0, math.nan, 2.0],
        [1.0, math.inf, -2.0],
        [-math.inf, math.nan, 0.0],
        [torch.finfo(dtype).smallest_normal, -torch.finfo(dtype).tiny / 3, 0.0],
        [2.0**-149, -(2.0**-148), 0.0],
        [torch.finfo(dtype).max, 1.0, -3.0],
        [1.0, -2.0, 0.5],
    ]
    check_quantized(torch.tensor(rows, dtype=torch.float64).to(dtype), threshold)


GOLDEN = [[1, -2, 0.5, 0.25], [0, 3, 9, -1.5], [math.nan, 1, 2, 3], [0, 0, 7, 0]]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_rows_of_the_format(dtype: torch.dtype) -> None:
    """The example of docs/FORMAT.md."""
    x = torch.tensor(GOLDEN, dtype=dtype)
    codes, absmax, columns = kq.int8_vectorwise_quant(x, 6.0)
    assert columns.tolist() == [2]
    assert codes.tolist() == [[64, -127, 0, 16], [0, 127, 0, -64], [0] * 4, [0] * 4]
    assert absmax[[0, 1, 3]].tolist() == [2, 3, 0]
    assert absmax.view(torch.int32)[2] == 0x7FC00000
    codes, absmax, _ = kq.int8_vectorwise_quant(x)
    assert codes.tolist() == [[64, -127, 32, 16], [0, 42, 127, -21], [0] * 4, [0, 0, 127, 0]]
    assert absmax[[0, 1, 3]].tolist() == [2, 9, 7]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("scale", [1.0, 2.0**-100, 2.0**-126, 2.0**-135, 2.0**120])
def test_codes_are_those_of_float32(scale: float) -> None:
    """Every backend gives the bits of two float32 operations, as docs/FORMAT.md says."""
    x = randn(50, 333) * scale
    codes, absmax, _ = kq.int8_vectorwise_quant(x)
    lifted = x * 2.0**80 if scale < 1 else x
    size = lifted.abs().amax(1, keepdim=True)
    inverse = torch.full_like(size, 127) / size
    assert torch.equal(codes, (lifted * inverse).round().to(torch.int8))
    assert torch.equal(absmax, x.abs().amax(1))


@given(
    st.lists(
        st.lists(st.floats(width=32), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.one_of(st.just(0.0), st.floats(0, allow_infinity=False, exclude_min=True)),
)
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("name", ["torch"])
def test_any_rows(name: str, rows: list[list[float]], threshold: float) -> None:
    with kq.use_backend(name):
        check_quantized(torch.tensor(rows), threshold)


@given(st.floats(0, allow_infinity=False))
def test_thresholds_decide_alike_in_float32(threshold: float) -> None:
    """No float32 lies between a threshold and the one that replaces it."""
    rounded = float32_threshold(threshold)
    assert rounded >= threshold
    below = torch.tensor(rounded).nextafter(torch.tensor(-1.0)).item()
    assert below < threshold or rounded == 0


@pytest.mark.usefixtures("backend")
def test_ties_go_to_even_codes() -> None:
    """With absmax 127 the scaled elements are the elements themselves."""
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    codes, _, _ = kq.int8_vectorwise_quant(x)
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_threshold_is_inclusive(dtype: torch.dtype) -> None:
    six = torch.tensor(6.0, dtype=dtype)
    below, above = six.nextafter(six * 0), six.nextafter(six * 2)
    x = torch.stack([six * 0 + 1, below, -six, above, -below])
    _, absmax, columns = kq.int8_vectorwise_quant(x, 6.0)
    assert columns.tolist() == [2, 3]
    assert absmax == below
    # One that has no float32: 6 + 2^-40 is above 6.
    assert kq.int8_vectorwise_quant(x, 6.0 + 2.0**-40)[2].tolist() == [3]


@pytest.mark.usefixtures("backend")
def test_outlier_columns_are_those_of_all_rows() -> None:
    """What is no outlier in such a column still counts for the scale of its row."""
    x = torch.tensor([[[1.0, 9.0], [2.0, 3.0]], [[1.0, 4.0], [0.5, 0.25]]])
    codes, absmax, columns = kq.int8_vectorwise_quant(x, 6.0)
    assert columns.tolist() == [1]
    assert absmax.tolist() == [[1.0, 3.0], [4.0, 0.5]]
    assert codes.tolist() == [[[127, 0], [85, 0]], [[32, 0], [127, 0]]]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
def test_decoded_within_bound(dtype: torch.dtype) -> None:
    """Two float32 roundings, then one: of code × absmax / 127."""
    codes = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8).expand(9, -1)
    absmax = torch.tensor([0.0, 1.0, 127.0, 1e-3, 3e4, 2.0**-24, math.inf, math.nan, 12.7])
    out = kq.int8_vectorwise_dequant(codes, absmax, dtype)
    assert out.dtype == dtype
    legible = absmax.isfinite()
    exact = codes.double()[legible] * absmax.double()[legible].unsqueeze(1) / 127
    error = exact.abs() * ((1 + U) ** 2 * (1 + UNIT[dtype]) - 1) + TINY[dtype]
    assert ((out[legible].double() - exact).abs() <= error).all()
    # 0 × inf and 0 × NaN are NaN, so the damage shows in every element.
    damaged = out[~legible]
    assert not damaged.isfinite().any()
    assert damaged[:, codes[0] == 0].isnan().all()


@pytest.mark.usefixtures("backend")
def test_round_trip_is_exact_for_codes() -> None:
    """What was decoded has the same codes and scales, as the largest code decodes to absmax."""
    codes, absmax, _ = kq.int8_vectorwise_quant(randn(6, 129))
    values = kq.int8_vectorwise_dequant(codes, absmax)
    assert torch.equal(kq.int8_vectorwise_quant(values)[0], codes)


@pytest.mark.parametrize("threshold", [0.0, 2.0, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 70), (2, 3, 33), (9,), (0, 5), (5, 0), (2, 0, 3)])
@pytest.mark.usefixtures("backend")
def test_rows_and_columns(shape: tuple[int, ...], dtype: torch.dtype, threshold: float) -> None:
    x = randn(*shape).to(dtype)
    x[..., :1] = math.nan if threshold == 0.01 else 1.0
    before = x.clone()
    codes, by_column, absmax, col_absmax, columns = kq.int8_double_quant(x, threshold)
    assert torch.equal(x.nan_to_num(nan=9.0), before.nan_to_num(nan=9.0))
    rows = kq.int8_vectorwise_quant(x, threshold)
    assert torch.equal(codes, rows[0])
    assert torch.equal(absmax.nan_to_num(), rows[1].nan_to_num())
    assert (columns is None) if threshold == 0 else torch.equal(columns, rows[2])
    assert (by_column.dtype, by_column.shape) == (torch.int8, x.shape)
    assert col_absmax.shape == x.shape[-1:]
    matrix = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    outlier = (matrix.double().abs() >= threshold) & (threshold > 0)
    check_rows(
        matrix.t(),
        by_column.view(matrix.shape).t(),
        col_absmax,
        ~outlier.t(),
        ~outlier.any(0).unsqueeze(1),
    )


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("lead", "n", "k"),
    [((5,), 7, 33), ((2, 3), 4, 2051), ((), 3, 8), ((1,), 1, 1), ((3,), 2, 0), ((0,), 2, 3)],
)
def test_products_of_codes_are_exact(lead: tuple[int, ...], n: int, k: int) -> None:
    draw = torch.Generator().manual_seed(3)
    A = torch.randint(-128, 128, (*lead, k), generator=draw, dtype=torch.int8)
    B = torch.randint(-128, 128, (n, k), generator=draw, dtype=torch.int8)
    product = kq.int8_linear_matmul(A, B)
    assert product.dtype == torch.int32
    assert torch.equal(product.long(), A.long() @ B.long().t())


@pytest.mark.usefixtures("backend")
def test_the_longest_product() -> None:
    """Odd sums far above 2^24, which float32 does not hold, up to the largest of all."""
    A = torch.full((2, MAX_INNER), 127, dtype=torch.int8)
    B = A.clone()
    B[1, 0] = 126
    expected = 127**2 * MAX_INNER
    assert kq.int8_linear_matmul(A, B)[0].tolist() == [expected, expected - 127]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("lead", [(5,), (2, 3), (), (0,)])
def test_scaled_within_bound(lead: tuple[int, ...], with_bias: bool, dtype: torch.dtype) -> None:
    n = 9
    A = (randn(*lead, n) * 1e6).int()
    rows, cols = randn(*lead, seed=8).abs(), randn(n, seed=9).abs()
    bias = randn(n, seed=10).to(dtype) if with_bias else None
    out = kq.int8_mm_dequant(A, rows, cols, bias, dtype)
    assert (out.dtype, out.shape) == (dtype, A.shape)
    scaled = A.double() * rows.double().unsqueeze(-1) * cols.double() / 127**2
    added = torch.zeros(n).double() if bias is None else bias.double()
    # A to float32, two products of scales, the constant, the product of both; then the bias.
    error = scaled.abs() * ((1 + U) ** 5 - 1)
    error = error + (scaled.abs() + error + added.abs()) * (U if with_bias else 0)
    exact = scaled + added
    error = error + (exact.abs() + error) * UNIT[dtype] + TINY[dtype]
    finite = exact.abs() < torch.finfo(dtype).max / 2
    assert ((out.double() - exact).abs() <= error)[finite].all()


def test_scaled_in_float16_by_default() -> None:
    A = torch.ones(2, 3, dtype=torch.int32)
    assert kq.int8_mm_dequant(A, torch.ones(2), torch.ones(3)).dtype == torch.float16


CODES = torch.ones(6, 70, dtype=torch.int8)
SCALES = torch.ones(6)
SUMS = torch.ones(4, 6, dtype=torch.int32)
WRONG: list[Any] = [
    (lambda: kq.int8_vectorwise_quant([1.0]), TypeError, "A must be a torch.Tensor, got list"),
    (lambda: kq.int8_vectorwise_quant(CODES), TypeError, "A must be one of float32, .*got int8"),
    (
        lambda: kq.int8_vectorwise_quant(torch.ones(())),
        ValueError,
        r"A must have at least one dimension, got shape \(\)",
    ),
    *(
        (
            lambda value=value: kq.int8_vectorwise_quant(torch.ones(2, 3), value),
            ValueError,
            "threshold must be finite and at least 0",
        )
        for value in (-1.0, math.nan, math.inf, -math.inf)
    ),
    (
        lambda: kq.int8_vectorwise_quant(torch.ones(2, 3), "6"),
        TypeError,
        "threshold must be a float, got str",
    ),
    (
        lambda: kq.int8_vectorwise_dequant(CODES.int(), SCALES),
        TypeError,
        "codes must be int8, got int32",
    ),
    (
        lambda: kq.int8_vectorwise_dequant(CODES, SCALES.half()),
        TypeError,
        "absmax must be float32, got float16",
    ),
    (
        lambda: kq.int8_vectorwise_dequant(CODES, SCALES[:5]),
        ValueError,
        "absmax must have 6 elements, got 5",
    ),
    (
        lambda: kq.int8_vectorwise_dequant(CODES, SCALES.view(6, 1)),
        ValueError,
        r"absmax must have shape \(6,\), got \(6, 1\)",
    ),
    (
        lambda: kq.int8_vectorwise_dequant(CODES, SCALES, torch.float64),
        TypeError,
        "dtype must be one of float32, bfloat16, float16, got float64",
    ),
    (
        lambda: kq.int8_vectorwise_dequant(CODES, SCALES, "float32"),
        TypeError,
        "dtype must be a torch.dtype, got str",
    ),
    (
        lambda: kq.int8_double_quant(torch.ones(2, 3), -1.0),
        ValueError,
        "threshold must be finite",
    ),
    (lambda: kq.int8_linear_matmul(CODES, SCALES), TypeError, "B must be int8, got float32"),
    (lambda: kq.int8_linear_matmul(CODES.int(), CODES), TypeError, "A must be int8, got int32"),
    (
        lambda: kq.int8_linear_matmul(CODES, CODES[:, 1:]),
        ValueError,
        r"B must have shape \(N, 70\), .* got \(6, 69\)",
    ),
    (
        lambda: kq.int8_linear_matmul(*[torch.zeros(1, MAX_INNER + 1, dtype=torch.int8)] * 2),
        ValueError,
        "the inner dimension must be at most 131072, got 131073",
    ),
    (
        lambda: kq.int8_mm_dequant(SUMS.float(), SCALES[:4], SCALES),
        TypeError,
        "A must be int32, got float32",
    ),
    (
        lambda: kq.int8_mm_dequant(SUMS, SCALES, SCALES),
        ValueError,
        "row_absmax must have 4 elements, got 6",
    ),
    (
        lambda: kq.int8_mm_dequant(SUMS, SCALES[:4], SCALES[:5]),
        ValueError,
        "col_absmax must have 6 elements, got 5",
    ),
    (
        lambda: kq.int8_mm_dequant(SUMS, SCALES[:4], SCALES, SCALES),
        TypeError,
        "bias must be float16, got float32",
    ),
    (
        lambda: kq.int8_mm_dequant(SUMS, SCALES[:4], SCALES, dtype=torch.int32),
        TypeError,
        "dtype must be one of float32, bfloat16, float16, got int32",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_explain_knows_the_operations() -> None:
    assert kq.explain("int8_linear", dtype=torch.bfloat16).chosen is not None
    assert "dtype=int8" in kq.explain("int8_linear_matmul").query
    assert "blocksize" not in kq.explain("int8_vectorwise_quant").query
    with pytest.raises(TypeError, match="x must be one of float32"):
        kq.explain("int8_linear", dtype=torch.float64)
