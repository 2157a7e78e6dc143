"""The contract of backends, on the backends themselves: rows that lie apart, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kq_functional as kq
from kq_functional import registry
from kq_functional.backends.base import Backend, Scales

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CODE = kq.create_dynamic_map()
REFUSALS = (NotImplementedError, TypeError, ValueError)
OPTIONS = {
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decoupled": True,
    "maximize": False,
    "grad_scale": 1.0,
    "rounding": "nearest",
    "corrections": [],
    "seeds": [],
}


@pytest.fixture
def direct(backend: str) -> Backend:
    return registry.load_or_raise(backend)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def apart(x: Tensor, gap: int) -> Tensor:
    """The same matrix with rows `gap` elements further apart, NaN or a number between them."""
    between = torch.nan if x.is_floating_point() else 99
    wide = x.new_full((x.shape[0], x.shape[1] + gap), between)
    view = wide[:, : x.shape[1]]
    view.copy_(x)
    return view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [1, 64])
@pytest.mark.parametrize(("rows", "cols", "blocksize"), [(5, 128, 64), (7, 33, 32), (3, 1, 32)])
def test_quantize_rows_that_lie_apart(
    direct: Backend, rows: int, cols: int, blocksize: int, gap: int, dtype: torch.dtype
) -> None:
    x = randn(rows, cols).to(dtype)
    blocks = -(-cols // blocksize)
    results = []
    for A in (x, apart(x, gap)):
        packed = torch.empty(rows, (cols + 1) // 2, dtype=torch.uint8)
        absmax, absmax8 = torch.empty(2, rows, blocks)
        codes = torch.empty(rows, cols, dtype=torch.uint8)
        direct.quantize_4bit(A, packed, absmax, quant_type="nf4", blocksize=blocksize)
        direct.quantize_blockwise(A, CODE, codes, absmax8, blocksize=blocksize)
        results.append([packed, absmax, codes, absmax8])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [1, 64])
@pytest.mark.parametrize("m", [2, 3, 40])
def test_multiply_rows_that_lie_apart(
    direct: Backend, m: int, gap: int, dtype: torch.dtype
) -> None:
    """With weights and inputs of -1, 0 and 1 every sum is exact, whatever its order."""
    n, k = 24, 65
    weight = randn(n, k).sign()
    packed, state = kq.quantize_4bit(weight)
    x, grad = randn(m, k).sign().to(dtype), randn(m, n).sign().to(dtype)
    y, grad_x = torch.empty(m, n, dtype=dtype), torch.empty(m, k, dtype=dtype)
    scales = Scales(state.absmax)
    four_bit: Any = {"quant_type": "nf4", "blocksize": 64}
    direct.linear_4bit(apart(x, gap), packed, scales, None, y, **four_bit)
    direct.linear_4bit_backward(apart(grad, gap), packed, scales, grad_x, **four_bit)
    assert torch.equal(y, (x.float() @ weight.T).to(dtype))
    assert torch.equal(grad_x, (grad.float() @ weight).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [1, 64])
def test_multiply_rows_of_experts_that_lie_apart(
    direct: Backend, gap: int, dtype: torch.dtype
) -> None:
    """As above, with three weights."""
    counts, n, k = [2, 0, 38], 24, 65
    weight = randn(3, n, k).sign()
    packed, state = kq.quantize_4bit(weight)
    x, grad = randn(40, k).sign().to(dtype), randn(40, n).sign().to(dtype)
    y, grad_x = torch.empty(40, n, dtype=dtype), torch.empty(40, k, dtype=dtype)
    codes, scales = packed.flatten(0, 1), Scales(state.absmax.flatten(0, 1))
    four_bit: Any = {"quant_type": "nf4", "blocksize": 64}
    direct.linear_4bit_grouped(apart(x, gap), codes, scales, None, counts, y, **four_bit)
    direct.linear_4bit_grouped_backward(apart(grad, gap), codes, scales, counts, grad_x, **four_bit)
    own = weight.repeat_interleave(torch.tensor(counts), 0)
    assert torch.equal(y, torch.einsum("tk,tnk->tn", x.float(), own).to(dtype))
    assert torch.equal(grad_x, torch.einsum("tn,tnk->tk", grad.float(), own).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [1, 64])
@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_int8_rows_that_lie_apart(
    direct: Backend, threshold: float, gap: int, dtype: torch.dtype
) -> None:
    """Whatever is between the rows, NaN or other codes, the results are the same."""
    m, n, k = 7, 24, 65
    x, grad = randn(m, k).to(dtype), randn(m, n).to(dtype)
    weight, w_absmax, _ = kq.int8_vectorwise_quant(randn(n, k))
    results = []
    for cut in (lambda t: t, lambda t: apart(t, gap)):
        codes, absmax = torch.empty(m, k, dtype=torch.int8), torch.empty(m)
        outliers = torch.empty(k, dtype=torch.bool) if threshold else None
        direct.int8_vectorwise_quant(cut(x), codes, absmax, outliers, threshold=threshold)
        sums, y = torch.empty(m, n, dtype=torch.int32), torch.empty(m, n, dtype=dtype)
        direct.int8_linear_matmul(cut(codes), weight, sums)
        direct.int8_mm_dequant(cut(sums), absmax, w_absmax, None, y)
        product, grad_x = torch.empty_like(y), torch.empty_like(x)
        direct.int8_linear(cut(x), weight, w_absmax, None, product, threshold=threshold)
        direct.int8_linear_backward(cut(grad), weight, w_absmax, grad_x)
        results.append([codes, absmax, sums, y, product, grad_x])
        results[-1] += [] if outliers is None else [outliers]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    if not threshold:
        assert torch.equal(results[0][3], results[0][4])


def calls(
    direct: Backend, dtype: torch.dtype, quant_type: str, blocksize: int, rule: str
) -> dict[str, tuple[Callable[[], None], list[Tensor]]]:
    """Every op as a call and what it may write; right for float32, "nf4", 64 and "adam".

    Codes are int8 where `dtype` is float32, else of that dtype.
    """

    def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones(shape, dtype=dtype)

    def bytes_(*shape: int) -> Tensor:
        return torch.full(shape, 0x55, dtype=torch.uint8)

    values, absmax = floats(2, 64, dtype=dtype), floats(2, 1)
    packed, codes, scales = bytes_(2, 32), bytes_(2, 64), Scales(absmax)
    x, y = floats(3, 64, dtype=dtype), floats(3, 2, dtype=dtype)
    param, grad = floats(128, dtype=dtype), floats(128, dtype=dtype)
    states, state_absmax = [floats(128), floats(128)], [floats(1), floats(1)]
    state_codes = [bytes_(128), bytes_(128)]
    code_dtype = torch.int8 if dtype == torch.float32 else dtype
    int8, weight = floats(3, 64, dtype=code_dtype), floats(2, 64, dtype=torch.int8)
    rows, cols, sums = floats(3), floats(2), floats(3, 2, dtype=torch.int32)
    int8_x = floats(3, 64, dtype=torch.int8)
    four_bit: Any = {"quant_type": quant_type, "blocksize": blocksize}
    return {
        "quantize_4bit": (
            lambda: direct.quantize_4bit(values, packed, absmax, **four_bit),
            [packed, absmax],
        ),
        "dequantize_4bit": (
            lambda: direct.dequantize_4bit(packed, scales, values, **four_bit),
            [values],
        ),
        "quantize_blockwise": (
            lambda: direct.quantize_blockwise(values, CODE, codes, absmax, blocksize=blocksize),
            [codes, absmax],
        ),
        "dequantize_blockwise": (
            lambda: direct.dequantize_blockwise(codes, CODE, absmax, values, blocksize=blocksize),
            [values],
        ),
        "linear_4bit": (
            lambda: direct.linear_4bit(x, packed, scales, None, y, **four_bit),
            [y],
        ),
        "linear_4bit_backward": (
            lambda: direct.linear_4bit_backward(y, packed, scales, x, **four_bit),
            [x],
        ),
        "linear_4bit_grouped": (
            lambda: direct.linear_4bit_grouped(x, packed, scales, None, [3], y, **four_bit),
            [y],
        ),
        "linear_4bit_grouped_backward": (
            lambda: direct.linear_4bit_grouped_backward(y, packed, scales, [3], x, **four_bit),
            [x],
        ),
        "int8_vectorwise_quant": (
            lambda: direct.int8_vectorwise_quant(x, int8_x, rows, None, threshold=0.0),
            [int8_x],
        ),
        "int8_vectorwise_dequant": (
            lambda: direct.int8_vectorwise_dequant(int8_x, rows, x),
            [x],
        ),
        "int8_linear_matmul": (lambda: direct.int8_linear_matmul(int8, weight, sums), [sums]),
        "int8_mm_dequant": (
            lambda: direct.int8_mm_dequant(sums, rows, cols, None, y),
            [y],
        ),
        "int8_linear": (
            lambda: direct.int8_linear(x, weight, cols, None, y, threshold=0.0),
            [y],
        ),
        "int8_linear_backward": (
            lambda: direct.int8_linear_backward(y, weight, cols, x),
            [x],
        ),
        "optimizer_step_8bit": (
            lambda: direct.optimizer_step_8bit(
                rule, [param], [grad], state_codes, state_absmax, [CODE, CODE], [1], **OPTIONS
            ),
            [param, *state_codes, *state_absmax],
        ),
        "optimizer_step_32bit": (
            lambda: direct.optimizer_step_32bit(rule, [param], [grad], states, [1], **OPTIONS),
            [param, *states],
        ),
    }


RIGHT: dict[str, Any] = {
    "dtype": torch.float32,
    "quant_type": "nf4",
    "blocksize": 64,
    "rule": "adam",
}
EIGHT_BIT = ["quantize_blockwise", "dequantize_blockwise"]
FOUR_BIT = [op for op in registry.OPS if "4bit" in op]
STEPS = [op for op in registry.OPS if op.startswith("optimizer")]
UNDECLARED = [
    *((op, {"dtype": torch.float64}) for op in registry.OPS),
    *((op, {"dtype": torch.int32}) for op in registry.OPS),
    *((op, {"quant_type": name}) for op in FOUR_BIT for name in ("int4", "NF4", "", None)),
    *((op, {"blocksize": size}) for op in FOUR_BIT for size in (48, 16, 8192, 0, -64, 64.0)),
    *((op, {"blocksize": size}) for op in EIGHT_BIT for size in (0, -1, 64.0)),
    *((op, {"rule": rule}) for op in STEPS for rule in ("nadam", "", None)),
]


@pytest.mark.parametrize("op", registry.OPS)
def test_what_is_declared_works(direct: Backend, op: str) -> None:
    call, outputs = calls(direct, **RIGHT)[op]
    before = [out.clone() for out in outputs]
    if op in {capability.op for capability in direct.capabilities}:
        call()
        assert not all(torch.equal(a, b) for a, b in zip(outputs, before, strict=True))
    else:
        with pytest.raises(NotImplementedError):
            call()


@pytest.mark.parametrize(("op", "wrong"), UNDECLARED)
def test_what_is_not_declared_is_refused(direct: Backend, op: str, wrong: dict) -> None:
    call, outputs = calls(direct, **(RIGHT | wrong))[op]
    before = [out.clone() for out in outputs]
    with pytest.raises(REFUSALS):
        call()
    assert all(torch.equal(a, b) for a, b in zip(outputs, before, strict=True))
