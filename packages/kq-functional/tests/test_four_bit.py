"""Shapes, layouts, destinations, double quantization and errors of the 4-bit functions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import kq_functional as kq
from kq_functional.backends import _torch_codes
from kq_functional.ops.mean import cascade_mean

pytestmark = pytest.mark.usefixtures("backend")


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)


@pytest.mark.parametrize(
    ("shape", "packed", "absmax"),
    [
        ((), (1,), (1,)),
        ((1,), (1,), (1,)),
        ((70,), (35,), (3,)),
        ((3, 71), (3, 36), (3, 3)),
        ((2, 3, 64), (2, 3, 32), (2, 3, 2)),
        ((0,), (0,), (0,)),
        ((0, 70), (0, 35), (0, 3)),
        ((4, 0), (4, 0), (4, 0)),
    ],
)
def test_row_shapes(
    shape: tuple[int, ...], packed: tuple[int, ...], absmax: tuple[int, ...]
) -> None:
    A = randn(*shape)
    codes, state = kq.quantize_4bit(A, blocksize=32)
    assert codes.dtype == torch.uint8
    assert codes.shape == packed
    assert state.absmax.dtype == torch.float32
    assert state.absmax.shape == absmax
    decoded = kq.dequantize_4bit(codes, state)
    assert decoded.shape == shape
    # The widest gap between two NF4 values is 0.304; half of it is the largest error.
    assert (
        (decoded - A).abs() <= 0.1520 * A.abs().amax() if A.numel() else torch.tensor([True])
    ).all()


@pytest.mark.parametrize("shape", [(), (5, 71), (2, 3, 64), (0,), (3, 0)])
def test_flat_layout_is_one_row(shape: tuple[int, ...]) -> None:
    A = randn(*shape)
    codes, state = kq.quantize_4bit(A, blocksize=32, layout="flat")
    assert codes.shape == ((A.numel() + 1) // 2, 1)
    assert state.absmax.shape == (math.ceil(A.numel() / 32),)
    row_codes, row_state = kq.quantize_4bit(A.flatten(), blocksize=32)
    assert torch.equal(codes.flatten(), row_codes)
    assert torch.equal(state.absmax, row_state.absmax)
    expected = kq.dequantize_4bit(row_codes, row_state).view(shape)
    assert torch.equal(kq.dequantize_4bit(codes, state), expected)


def test_layouts_coincide_when_blocks_fill_rows() -> None:
    A = randn(6, 128)
    row, row_state = kq.quantize_4bit(A)
    flat, flat_state = kq.quantize_4bit(A, layout="flat")
    assert torch.equal(row.flatten(), flat.flatten())
    assert torch.equal(row_state.absmax.flatten(), flat_state.absmax)
    # Codes in the shape of one layout decode in the other: only their number counts.
    assert torch.equal(kq.dequantize_4bit(flat, row_state), kq.dequantize_4bit(row, flat_state))


def test_rows_are_independent() -> None:
    A = randn(5, 71)
    codes, state = kq.quantize_4bit(A, blocksize=32)
    for i in range(5):
        one, one_state = kq.quantize_4bit(A[i], blocksize=32)
        assert torch.equal(codes[i], one)
        assert torch.equal(state.absmax[i], one_state.absmax)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch backend works in tiles; small ones cut rows and columns differently."""
    A = randn(9, 4096 + 65)
    whole, state = kq.quantize_4bit(A)
    decoded = kq.dequantize_4bit(whole, state)
    for tile in (64, 1000, 10_000):
        monkeypatch.setattr(_torch_codes, "TILE", tile)
        codes, small_state = kq.quantize_4bit(A)
        assert torch.equal(codes, whole)
        assert torch.equal(small_state.absmax, state.absmax)
        assert torch.equal(kq.dequantize_4bit(codes, state), decoded)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_first_element_is_in_the_high_nibble(quant_type: str) -> None:
    table = kq.get_4bit_type(quant_type)
    one, zero = int(table.argmax()), int((table == 0).nonzero()[0])
    codes, _ = kq.quantize_4bit(torch.tensor([1.0, 0.0, 1.0]), quant_type=quant_type)
    assert codes.tolist() == [one << 4 | zero, one << 4 | zero]


@pytest.mark.parametrize("view", ["transposed", "strided", "expanded", "offset"])
def test_any_strides(view: str) -> None:
    A = {
        "transposed": randn(130, 6).t(),
        "strided": randn(6, 260)[:, ::2],
        "expanded": randn(1, 130).expand(6, 130),
        "offset": randn(7 * 130 + 1)[1:].view(7, 130),
    }[view]
    codes, state = kq.quantize_4bit(A)
    dense, dense_state = kq.quantize_4bit(A.clone(memory_format=torch.contiguous_format))
    assert torch.equal(codes, dense)
    assert torch.equal(state.absmax, dense_state.absmax)
    strided = torch.stack((codes, codes), -1)[..., 0]
    strided_state = replace(state, absmax=torch.stack((state.absmax,) * 2, -1)[..., 0])
    expected = kq.dequantize_4bit(dense, dense_state)
    assert torch.equal(kq.dequantize_4bit(strided, strided_state), expected)


def test_state_records_the_tensor() -> None:
    A = randn(4, 70, dtype=torch.bfloat16)
    _, state = kq.quantize_4bit(A, blocksize=128, quant_type="fp4")
    assert state.shape == A.shape
    assert state.dtype == torch.bfloat16
    assert state.blocksize == 128
    assert state.quant_type == "fp4"
    assert state.layout == "row"
    assert torch.equal(state.code, kq.get_4bit_type("fp4"))
    assert not state.nested
    assert state.offset is None


def test_a_parameter_leaves_no_gradient_behind() -> None:
    codes, state = kq.quantize_4bit(torch.nn.Parameter(randn(3, 70)), compress_statistics=True)
    assert not codes.requires_grad
    assert not any(t.requires_grad for t in state.scales if t is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_out_is_written_and_returned(dtype: torch.dtype) -> None:
    A = randn(5, 71, dtype=dtype)
    codes, state = kq.quantize_4bit(A)
    out, absmax = torch.empty_like(codes), torch.empty_like(state.absmax)
    written, written_state = kq.quantize_4bit(A, absmax=absmax, out=out)
    assert written is out
    assert written_state.absmax is absmax
    assert torch.equal(out, codes)
    assert torch.equal(absmax, state.absmax)
    only_out = torch.empty_like(codes)
    assert torch.equal(kq.quantize_4bit(A, out=only_out)[1].absmax, state.absmax)
    assert torch.equal(kq.quantize_4bit(A, absmax=torch.empty_like(absmax))[0], codes)

    expected = kq.dequantize_4bit(codes, state)
    for out_dtype in (torch.float32, torch.bfloat16, torch.float16):
        decoded = torch.empty(5, 71, dtype=out_dtype)
        assert kq.dequantize_4bit(codes, state, out=decoded) is decoded
        single = kq.dequantize_4bit(codes, replace(state, dtype=torch.float32))
        assert torch.equal(decoded, single.to(out_dtype))
    bare = torch.empty_like(expected)
    assert kq.dequantize_4bit(codes, absmax=state.absmax, out=bare) is bare
    assert torch.equal(bare, expected)


def test_named_types() -> None:
    A = randn(3, 70)
    for quantize, dequantize, name in (
        (kq.quantize_nf4, kq.dequantize_nf4, "nf4"),
        (kq.quantize_fp4, kq.dequantize_fp4, "fp4"),
    ):
        codes, state = quantize(A, blocksize=32, compress_statistics=True)
        expected, expected_state = kq.quantize_4bit(
            A, blocksize=32, compress_statistics=True, quant_type=name
        )
        assert torch.equal(codes, expected)
        decoded = kq.dequantize_4bit(expected, expected_state)
        assert torch.equal(dequantize(codes, state), decoded)
        plain, plain_state = quantize(A, blocksize=32)
        out = torch.empty_like(A)
        dequantize(plain, absmax=plain_state.absmax, out=out, blocksize=32)
        assert torch.equal(out, dequantize(plain, plain_state))


@pytest.mark.parametrize("layout", ["row", "flat"])
@pytest.mark.parametrize("shape", [(3, 70), (40, 640), (1,), (0, 5)])
def test_double_quantization_is_its_definition(shape: tuple[int, ...], layout: str) -> None:
    A = randn(*shape)
    codes, state = kq.quantize_4bit(A, compress_statistics=True, layout=layout)
    plain, plain_state = kq.quantize_4bit(A, layout=layout)
    assert torch.equal(codes, plain)
    assert state.nested
    assert state.absmax.dtype == torch.uint8
    assert state.absmax.shape == plain_state.absmax.shape
    assert state.offset is not None
    assert state.state2 is not None
    assert torch.equal(state.offset, cascade_mean(plain_state.absmax))
    inner, inner_state = kq.quantize_blockwise(
        (plain_state.absmax - state.offset).flatten(), blocksize=256
    )
    assert torch.equal(state.absmax.flatten(), inner)
    assert torch.equal(state.state2.absmax, inner_state.absmax)
    assert state.state2.absmax.shape == (math.ceil(inner.numel() / 256),)
    # Two float32 roundings, product and sum, no fused multiply-add.
    scales = kq.dequantize_blockwise(inner, inner_state) + state.offset
    expected = kq.dequantize_4bit(plain, replace(plain_state, absmax=scales))
    assert torch.equal(kq.dequantize_4bit(codes, state), expected)


def test_a_scale_that_is_not_finite_damages_all_under_double_quantization() -> None:
    A = randn(2, 128)
    A[0, 0] = math.nan
    codes, state = kq.quantize_4bit(A, compress_statistics=True)
    assert kq.dequantize_4bit(codes, state).isnan().all()


CODES, STATE = kq.quantize_4bit(torch.ones(3, 70))
_, NESTED = kq.quantize_4bit(torch.ones(3, 70), compress_statistics=True)
_, STATE8 = kq.quantize_blockwise(torch.ones(3, 70))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kq.quantize_4bit([1.0]), TypeError, "A must be a torch.Tensor, got list"),
        (
            lambda: kq.quantize_4bit(torch.ones(3, dtype=torch.float64)),
            TypeError,
            "A must be one of float32, bfloat16, float16, got float64",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3), blocksize=48),
            ValueError,
            r"blocksize must be one of 32, 64, .*, 4096, got 48",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3), quant_type="int4"),
            ValueError,
            "quant_type must be one of nf4, fp4, got 'int4'",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3), layout="column"),
            ValueError,
            "layout must be one of row, flat, got 'column'",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3, 70), out=torch.empty(105, dtype=torch.uint8)),
            ValueError,
            r"out must have shape \(3, 35\), got \(105,\)",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3, 70), out=torch.empty(3, 35)),
            TypeError,
            "out must be uint8, got float32",
        ),
        (
            lambda: kq.quantize_4bit(
                torch.ones(3, 70), out=torch.empty(35, 3, dtype=torch.uint8).t()
            ),
            ValueError,
            r"out must be contiguous, got strides \(1, 3\)",
        ),
        (
            lambda: kq.quantize_4bit(
                torch.ones(3, 70), out=torch.empty(3, 35, dtype=torch.uint8, device="meta")
            ),
            ValueError,
            "out must be on cpu, got meta",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3, 70), absmax=torch.empty(3)),
            ValueError,
            r"absmax must have shape \(3, 2\), got \(3,\)",
        ),
        (
            lambda: kq.quantize_4bit(torch.ones(3, 70), absmax=torch.empty(3, 2), blocksize=0),
            ValueError,
            "blocksize must be one of",
        ),
        (
            lambda: kq.dequantize_4bit(CODES),
            ValueError,
            "without quant_state both absmax and out are required",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, absmax=STATE.absmax),
            ValueError,
            "without quant_state both absmax and out are required",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, STATE8),
            ValueError,
            "quant_state is of 8-bit codes",
        ),
        (
            lambda: kq.dequantize_fp4(CODES, STATE),
            ValueError,
            "quant_state is of nf4, not of fp4",
        ),
        (
            lambda: kq.dequantize_4bit(CODES[:, 1:], STATE),
            ValueError,
            r"packed must have 105 elements, got 102 \(shape \(3, 34\)\)",
        ),
        (
            lambda: kq.dequantize_4bit(CODES.float(), STATE),
            TypeError,
            "packed must be uint8, got float32",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, STATE.to("meta")),
            ValueError,
            "absmax must be on cpu, got meta",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, replace(STATE, absmax=STATE.absmax.half())),
            TypeError,
            "absmax must be float32, got float16",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, replace(STATE, absmax=STATE.absmax[:2])),
            ValueError,
            "absmax must have 6 elements, got 4",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, replace(STATE, dtype=torch.float64)),
            TypeError,
            "dtype must be one of float32, bfloat16, float16, got float64",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, STATE, out=torch.empty(70, 3)),
            ValueError,
            r"out must have shape \(3, 70\), got \(70, 3\)",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, STATE, out=torch.empty(70, 3).t()),
            ValueError,
            "out must be contiguous",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, replace(NESTED, absmax=STATE.absmax)),
            TypeError,
            "absmax must be uint8, got float32",
        ),
        (
            lambda: kq.dequantize_4bit(
                CODES, replace(NESTED, state2=replace(NESTED.state2, absmax=torch.ones(2)))
            ),
            ValueError,
            "nested_absmax must have 1 elements, got 2",
        ),
        (
            lambda: kq.dequantize_4bit(
                CODES, replace(NESTED, state2=replace(NESTED.state2, code=torch.ones(16)))
            ),
            ValueError,
            "nested_code must have 256 elements, got 16",
        ),
        (
            lambda: kq.dequantize_4bit(CODES, replace(NESTED, offset=torch.ones(2))),
            ValueError,
            "offset must have 1 elements, got 2",
        ),
        (
            lambda: torch.ops.kq.dequantize_4bit(
                CODES, NESTED.absmax, (3, 70), 64, "nf4", "row", torch.float32, torch.ones(1)
            ),
            ValueError,
            "nested_absmax, nested_code and offset must be given together",
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
