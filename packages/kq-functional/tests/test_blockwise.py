"""Shapes, layouts, destinations, nesting and errors of the 8-bit functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kq_functional as kq
from kq_functional.backends import _torch_codes

pytestmark = pytest.mark.usefixtures("backend")


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)


@pytest.mark.parametrize(
    ("shape", "absmax"),
    [
        ((), (1,)),
        ((70,), (3,)),
        ((3, 71), (3, 3)),
        ((0,), (0,)),
        ((0, 5), (0, 1)),
        ((2, 0), (2, 0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_row_shapes(shape: tuple[int, ...], absmax: tuple[int, ...], dtype: torch.dtype) -> None:
    A = randn(*shape, dtype=dtype)
    codes, state = kq.quantize_blockwise(A, blocksize=30)
    assert codes.dtype == torch.uint8
    assert codes.shape == shape
    assert state.absmax.shape == absmax
    assert state.quant_type is None
    assert state.dtype == dtype
    assert kq.dequantize_blockwise(codes, state).shape == shape
    assert kq.dequantize_blockwise(codes, state).dtype == dtype


def test_flat_layout_is_one_row() -> None:
    A = randn(5, 71)
    codes, state = kq.quantize_blockwise(A, blocksize=30, layout="flat")
    row, row_state = kq.quantize_blockwise(A.flatten(), blocksize=30)
    assert torch.equal(codes.flatten(), row)
    assert torch.equal(state.absmax, row_state.absmax)
    assert codes.shape == A.shape
    decoded = kq.dequantize_blockwise(row, row_state)
    assert torch.equal(kq.dequantize_blockwise(codes, state).flatten(), decoded)


def test_defaults() -> None:
    """The signed dynamic map and blocks of 4096."""
    A = randn(5000)
    codes, state = kq.quantize_blockwise(A)
    assert torch.equal(state.code, kq.create_dynamic_map())
    assert state.absmax.shape == (2,)
    same = kq.dequantize_blockwise(codes, absmax=state.absmax)
    assert torch.equal(same, kq.dequantize_blockwise(codes, state))


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    A = randn(9, 1001)
    whole, state = kq.quantize_blockwise(A, blocksize=30)
    decoded = kq.dequantize_blockwise(whole, state)
    for tile in (1, 64, 1000, 10_000):
        monkeypatch.setattr(_torch_codes, "TILE", tile)
        codes, small_state = kq.quantize_blockwise(A, blocksize=30)
        assert torch.equal(codes, whole)
        assert torch.equal(small_state.absmax, state.absmax)
        assert torch.equal(kq.dequantize_blockwise(codes, state), decoded)


def test_a_block_size_beyond_the_tensor_costs_nothing() -> None:
    A = randn(3, 10)
    codes, state = kq.quantize_blockwise(A, blocksize=2**40)
    assert state.absmax.shape == (3, 1)
    assert torch.equal(codes, kq.quantize_blockwise(A, blocksize=10)[0])
    expected = kq.dequantize_blockwise(codes, replace(state, blocksize=10))
    assert torch.equal(kq.dequantize_blockwise(codes, state), expected)


def test_any_strides() -> None:
    A = randn(130, 6).t()
    codes, state = kq.quantize_blockwise(A, blocksize=50)
    dense, dense_state = kq.quantize_blockwise(A.contiguous(), blocksize=50)
    assert codes.is_contiguous()
    assert torch.equal(codes, dense)
    strided = codes.t().contiguous().t()
    decoded = kq.dequantize_blockwise(strided, state)
    assert torch.equal(decoded, kq.dequantize_blockwise(dense, dense_state))


def test_out_is_written_and_returned() -> None:
    A = randn(5, 71)
    codes, state = kq.quantize_blockwise(A, blocksize=30)
    out, absmax = torch.empty_like(codes), torch.empty_like(state.absmax)
    written, written_state = kq.quantize_blockwise(A, absmax=absmax, out=out, blocksize=30)
    assert written is out
    assert written_state.absmax is absmax
    assert torch.equal(out, codes)
    assert torch.equal(absmax, state.absmax)
    assert torch.equal(kq.quantize_blockwise(A, absmax=absmax, blocksize=30)[0], codes)
    assert torch.equal(kq.quantize_blockwise(A, out=out, blocksize=30)[1].absmax, state.absmax)
    decoded = torch.empty(5, 71, dtype=torch.bfloat16)
    assert kq.dequantize_blockwise(codes, state, out=decoded) is decoded
    assert torch.equal(decoded, kq.dequantize_blockwise(codes, state).bfloat16())


@pytest.mark.parametrize("layout", ["row", "flat"])
def test_nested(layout: str) -> None:
    A = randn(7, 301)
    codes, state = kq.quantize_blockwise(A, blocksize=20, nested=True, layout=layout)
    plain, plain_state = kq.quantize_blockwise(A, blocksize=20, layout=layout)
    assert torch.equal(codes, plain)
    assert state.absmax.dtype == torch.uint8
    assert state.absmax.shape == plain_state.absmax.shape
    assert state.state2 is not None
    scales = kq.dequantize_blockwise(state.absmax, state.state2) + state.offset
    expected = kq.dequantize_blockwise(plain, replace(plain_state, absmax=scales))
    assert torch.equal(kq.dequantize_blockwise(codes, state), expected)
    # An inner code is off by at most half the widest gap of the map (0.0102 in its top decade,
    # with an absmax below the range of the scales), plus three roundings of the decoding.
    spread = (plain_state.absmax - plain_state.absmax.mean()).abs().max()
    slack = 3 * 2.0**-24 * plain_state.absmax.max()
    assert ((scales - plain_state.absmax).abs() <= 0.0102 * spread + slack).all()


ONES = torch.ones(3, 70)
CODES, STATE = kq.quantize_blockwise(ONES)
_, STATE4 = kq.quantize_4bit(ONES)
UNSORTED = torch.linspace(1, -1, 256)
HOLED = torch.linspace(-1, 1, 256)
HOLED[9] = torch.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kq.quantize_blockwise(None), TypeError, "A must be a torch.Tensor, got NoneType"),
        (
            lambda: kq.quantize_blockwise(torch.ones(3, dtype=torch.int32)),
            TypeError,
            "A must be one of float32, bfloat16, float16, got int32",
        ),
        (
            lambda: kq.quantize_blockwise(ONES, blocksize=0),
            ValueError,
            "blocksize must be at least 1, got 0",
        ),
        (
            lambda: kq.quantize_blockwise(ONES, absmax=torch.ones(3, 1), blocksize=True),
            TypeError,
            "blocksize must be an int, got bool",
        ),
        (lambda: kq.quantize_blockwise(ONES, layout="x"), ValueError, "layout must be one of"),
        (
            lambda: kq.quantize_blockwise(ONES, torch.ones(16)),
            ValueError,
            "code must have 256 elements, got 16",
        ),
        (
            lambda: kq.quantize_blockwise(ONES, torch.ones(256).half()),
            TypeError,
            "code must be float32, got float16",
        ),
        (
            lambda: kq.quantize_blockwise(ONES, torch.ones(256, device="meta")),
            ValueError,
            "code must be on cpu, got meta",
        ),
        (
            lambda: kq.quantize_blockwise(ONES, UNSORTED),
            ValueError,
            "code must be sorted in ascending order and finite",
        ),
        (lambda: kq.quantize_blockwise(ONES, HOLED), ValueError, "ascending order and finite"),
        (
            lambda: kq.quantize_blockwise(ONES, out=torch.empty(210, dtype=torch.uint8)),
            ValueError,
            r"out must have shape \(3, 70\)",
        ),
        (
            lambda: kq.quantize_blockwise(ONES, absmax=torch.empty(1)),
            ValueError,
            r"absmax must have shape \(3, 1\), got \(1,\)",
        ),
        (
            lambda: kq.dequantize_blockwise(CODES),
            ValueError,
            "one of quant_state and absmax is required",
        ),
        (lambda: kq.dequantize_blockwise(CODES, STATE4), ValueError, "of 4-bit codes"),
        (
            lambda: kq.dequantize_blockwise(CODES[:2], STATE),
            ValueError,
            r"A must have the shape of quant_state, \(3, 70\), got \(2, 70\)",
        ),
        (
            lambda: kq.dequantize_blockwise(CODES.int(), STATE),
            TypeError,
            "codes must be uint8, got int32",
        ),
        (
            lambda: kq.dequantize_blockwise(CODES, absmax=torch.ones(3), blocksize=64),
            ValueError,
            "absmax must have 6 elements, got 3",
        ),
        (
            lambda: kq.dequantize_blockwise(CODES, absmax=torch.ones(3), blocksize=-1),
            ValueError,
            "blocksize must be at least 1, got -1",
        ),
        (
            lambda: kq.dequantize_blockwise(CODES, STATE, out=torch.empty(70, 3)),
            ValueError,
            r"out must have shape \(3, 70\), got \(70, 3\)",
        ),
        (
            lambda: kq.dequantize_blockwise(CODES, STATE, out=torch.empty(3, 70).double()),
            TypeError,
            "dtype must be one of float32, bfloat16, float16, got float64",
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
