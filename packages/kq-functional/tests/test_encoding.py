"""Codes and decoded values against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kq_functional as kq
from kq_functional.backends._torch_codes import encoding_device

QUANT_TYPES = ["nf4", "fp4"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CANONICAL_NAN = 0x7FC00000


def ascending(quant_type: str) -> tuple[list[Fraction], list[int]]:
    """Values and codes in ascending order; of equal values (FP4's zeros) the lower code first."""
    table = kq.get_4bit_type(quant_type).tolist()
    codes = sorted(range(16), key=lambda code: (table[code], code))
    return [Fraction(table[code]) for code in codes], codes


def nearest(x: float, absmax: float, values: list[Fraction]) -> int:
    """Index of the value nearest to x / absmax, ties to the lower index, by exact comparison.

    Of equal values (two zeros) the one on the side of x, as their midpoint decides.
    """
    if absmax == 0 or not math.isfinite(absmax):
        x, absmax = 0.0, 1.0
    ratio = Fraction(x) / Fraction(absmax)
    return sum(ratio > (low + high) / 2 for low, high in pairwise(values))


def expected_absmax(block: list[float]) -> float:
    if any(math.isnan(x) for x in block):
        return math.nan
    return max(map(abs, block), default=0.0)


def unpack(packed: torch.Tensor) -> list[int]:
    flat = packed.flatten()
    return torch.stack((flat >> 4, flat & 15), -1).flatten().tolist()


def check_row(x: torch.Tensor, quant_type: str, blocksize: int) -> None:
    """Check codes, scales and decoded values of a 1-D tensor."""
    packed, state = kq.quantize_4bit(x, quant_type=quant_type, blocksize=blocksize)
    values, order = ascending(quant_type)
    codes = unpack(packed)
    numbers = x.tolist()
    for start in range(0, len(numbers), blocksize):
        block = numbers[start : start + blocksize]
        absmax = expected_absmax(block)
        stored = state.absmax[start // blocksize]
        if math.isnan(absmax):
            assert stored.view(torch.int32).item() == CANONICAL_NAN
        else:
            assert stored.item() == absmax
        expected = [order[nearest(v, absmax, values)] for v in block]
        assert codes[start : start + len(block)] == expected
    if len(numbers) % 2:
        assert codes[-1] == order[nearest(0.0, 1.0, values)]
    table = kq.get_4bit_type(quant_type)
    scale = state.absmax.repeat_interleave(blocksize)[: len(numbers)]
    decoded = (table[codes[: len(numbers)]] * scale).to(x.dtype)
    torch.testing.assert_close(
        kq.dequantize_4bit(packed, state), decoded, rtol=0, atol=0, equal_nan=True
    )


def neighbors(value: float) -> list[float]:
    """A float32 value, the one below and the one above."""
    x = torch.tensor(value, dtype=torch.float32)
    infinity = torch.tensor(math.inf)
    return [
        x.nextafter(-infinity).item(),
        x.item(),
        x.nextafter(infinity).item(),
    ]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("absmax", [1.0, 1.5, 0.1, 3.0e-38, 2.0**-140, 1e-45, 3.4e38, 1 / 3])
def test_around_every_midpoint(quant_type: str, absmax: float) -> None:
    """The float32 values at and beside each threshold × absmax, where a rounded quotient errs."""
    absmax = torch.tensor(absmax, dtype=torch.float32).item()
    values, _ = ascending(quant_type)
    points = [absmax]
    for low, high in pairwise(values):
        threshold = float((low + high) / 2 * Fraction(absmax))
        points += [x for x in neighbors(threshold) if abs(x) <= absmax]
    points += [0.0, -0.0, -absmax]
    check_row(torch.tensor(points, dtype=torch.float32), quant_type, 64)


@pytest.mark.usefixtures("backend")
def test_ties_go_to_the_lower_value() -> None:
    """Midpoints of FP4 that are exact in float32 when absmax is 1."""
    values, order = ascending("fp4")
    for i in range(15):
        middle = (values[i] + values[i + 1]) / 2
        if Fraction(torch.tensor(float(middle)).item()) == middle:
            packed, _ = kq.quantize_4bit(torch.tensor([float(middle), 1.0]), quant_type="fp4")
            assert unpack(packed)[0] == order[i]


@pytest.mark.usefixtures("backend")
def test_fp4_zero_codes() -> None:
    """What rounds to zero gets code 0 from below and from zero itself, code 8 from above."""
    packed, _ = kq.quantize_4bit(
        torch.tensor([0.0, -0.0, -1e-4, 1e-4, 1e-38, 1.0]), quant_type="fp4"
    )
    assert unpack(packed) == [0, 0, 0, 8, 8, 3]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 65, 200])
def test_random_rows(dtype: torch.dtype, quant_type: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    check_row(torch.randn(count, generator=generator).to(dtype), quant_type, 32)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("damage", [[math.nan], [math.inf], [-math.inf], [math.inf, math.nan]])
def test_damaged_block_shows_and_stays_local(
    dtype: torch.dtype, quant_type: str, damage: list[float]
) -> None:
    x = torch.linspace(-1, 1, 96)
    x[40 : 40 + len(damage)] = torch.tensor(damage)
    x = x.to(dtype)
    check_row(x, quant_type, 32)
    packed, state = kq.quantize_4bit(x, quant_type=quant_type, blocksize=32)
    decoded = kq.dequantize_4bit(packed, state)
    assert decoded[32:64].isnan().all()
    assert decoded[:32].isfinite().all()
    assert decoded[64:].isfinite().all()


@pytest.mark.usefixtures("backend")
def test_negative_nan_is_made_canonical() -> None:
    x = torch.tensor([0x7F800001, -1], dtype=torch.int32).view(torch.float32)  # -1: all bits set
    _, state = kq.quantize_4bit(x)
    assert state.absmax.view(torch.int32).item() == CANONICAL_NAN


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_zero_block(quant_type: str) -> None:
    x = torch.zeros(70)
    x[35] = -0.0
    check_row(x, quant_type, 64)
    packed, state = kq.quantize_4bit(x, quant_type=quant_type)
    assert torch.equal(kq.dequantize_4bit(packed, state), torch.zeros(70))


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=70),
    st.sampled_from(QUANT_TYPES),
)
@settings(max_examples=60, deadline=None)
def test_any_float32_row(numbers: list[float], quant_type: str) -> None:
    x = torch.tensor(numbers, dtype=torch.float32)
    for record in kq.backends():
        if record.status == "loaded":
            with kq.use_backend(record.name):
                check_row(x, quant_type, 32)


def check_blockwise(x: torch.Tensor, code: torch.Tensor, blocksize: int) -> None:
    codes, state = kq.quantize_blockwise(x, code, blocksize=blocksize)
    values = [Fraction(v) for v in code.tolist()]
    numbers = x.tolist()
    expected = []
    for start in range(0, len(numbers), blocksize):
        block = numbers[start : start + blocksize]
        absmax = expected_absmax(block)
        assert state.absmax[start // blocksize].item() == absmax
        expected += [nearest(v, absmax, values) for v in block]
    assert codes.tolist() == expected
    scale = state.absmax.repeat_interleave(blocksize)[: len(numbers)]
    decoded = (code[codes.int()] * scale).to(x.dtype)
    assert torch.equal(kq.dequantize_blockwise(codes, state), decoded)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("absmax", [1.0, 0.1, 1e-41])
def test_blockwise_around_every_midpoint(signed: bool, absmax: float) -> None:
    code = kq.create_dynamic_map(signed=signed)
    absmax = torch.tensor(absmax).item()
    points = [absmax]
    for low, high in pairwise(code.tolist()):
        threshold = float((Fraction(low) + Fraction(high)) / 2 * Fraction(absmax))
        points += [x for x in neighbors(threshold) if abs(x) <= absmax]
    check_blockwise(torch.tensor(points), code, len(points))


@pytest.mark.usefixtures("backend")
def test_blockwise_zero_is_a_fixed_point() -> None:
    """Every value of the codebook, zero above all, encodes to itself when absmax is 1."""
    for signed in (True, False):
        code = kq.create_dynamic_map(signed=signed)
        codes, _ = kq.quantize_blockwise(code, code, blocksize=256)
        assert codes.tolist() == list(range(256))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("blocksize", [1, 3, 64, 100, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blockwise_any_blocksize(blocksize: int, dtype: torch.dtype) -> None:
    x = torch.randn(201, generator=torch.Generator().manual_seed(blocksize)).to(dtype)
    check_blockwise(x, kq.create_linear_map(), blocksize)


@pytest.mark.usefixtures("backend")
def test_blockwise_zero_and_damaged_blocks() -> None:
    x = torch.tensor([0.0, -0.0, math.nan, 1.0, math.inf, 1.0, 1.0, -2.0])
    codes, state = kq.quantize_blockwise(x, blocksize=2)
    zero = 127
    assert codes.tolist() == [zero] * 6 + [nearest(1.0, 2.0, CODE), nearest(-2.0, 2.0, CODE)]
    assert state.absmax[0] == 0
    assert state.absmax[1].view(torch.int32).item() == CANONICAL_NAN
    assert state.absmax[2] == math.inf
    decoded = kq.dequantize_blockwise(codes, state)
    assert torch.equal(decoded[:2], torch.zeros(2))
    assert decoded[2:6].isnan().all()


CODE = [Fraction(v) for v in kq.create_dynamic_map().tolist()]


def test_devices_without_float64_encode_on_the_cpu() -> None:
    assert encoding_device(torch.device("mps")) == torch.device("cpu")
    assert encoding_device(torch.device("cuda:1")) == torch.device("cuda:1")
