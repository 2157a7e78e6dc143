"""Codebooks against published bits and against independent computations."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

import kq_functional as kq
from kq_functional.codebooks import shared_table

NF4 = (
    "bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000 "
    "3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000"
)
FP4 = (
    "00000000 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000 "
    "00000000 bbaaaaab bf2aaaab bf800000 beaaaaab bf000000 be2aaaab be800000"
)
MAPS = {
    "dynamic signed": kq.create_dynamic_map(),
    "dynamic unsigned": kq.create_dynamic_map(signed=False),
    "linear": kq.create_linear_map(),
    "linear unsigned": kq.create_linear_map(signed=False),
    "normal": kq.create_normal_map(),
}


def bits(table: torch.Tensor) -> str:
    return " ".join(f"{word & 0xFFFFFFFF:08x}" for word in table.view(torch.int32).tolist())


@pytest.mark.parametrize(("name", "golden"), [("nf4", NF4), ("fp4", FP4)])
def test_4bit_types_to_the_bit(name: str, golden: str) -> None:
    assert bits(kq.get_4bit_type(name)) == golden


def test_4bit_type_is_a_fresh_copy() -> None:
    kq.get_4bit_type("nf4").zero_()
    assert bits(kq.get_4bit_type("nf4")) == NF4
    assert kq.get_4bit_type("nf4", device="meta").device.type == "meta"


def test_4bit_type_names() -> None:
    with pytest.raises(ValueError, match=r"quant_type must be one of nf4, fp4, got 'int4'"):
        kq.get_4bit_type("int4")


@pytest.mark.parametrize(
    ("signed", "digest"),
    [
        (True, "fccde70893cbe2f769e5deec8dde0df0bde9366a4b12b851ff8d60d57b47bc03"),
        (False, "22f0a8d3e4dee7744d804b0e125c47b03882605bb4ffa219f60372e5b4eddf95"),
    ],
)
def test_dynamic_maps_to_the_bit(signed: bool, digest: str) -> None:
    words = bits(kq.create_dynamic_map(signed=signed))
    assert hashlib.sha256(words.encode()).hexdigest() == digest


def test_dynamic_map_signed_facts() -> None:
    table = kq.create_dynamic_map()
    assert (table < 0).sum() == 127
    assert table[127] == 0
    assert (table > 0).sum() == 128
    assert table[0] == torch.tensor(-0.99296874)
    assert table[-1] == 1
    # Four roundings lead to a value (grid, midpoint, power of ten, product): 4 half ulps.
    exact = torch.tensor([5.5e-7, 3.25e-6, 7.75e-6, 2.125e-5])
    torch.testing.assert_close(table[128:132], exact, rtol=4 * 2.0**-24, atol=0)


def test_dynamic_map_unsigned_facts() -> None:
    table = kq.create_dynamic_map(signed=False)
    exact = torch.tensor([0, 3.25e-7, 7.75e-7, 2.125e-6])
    torch.testing.assert_close(table[:4], exact, rtol=4 * 2.0**-24, atol=0)
    top = torch.tensor([0.9894531, 0.9964844, 1.0])
    torch.testing.assert_close(table[-3:], top, rtol=4 * 2.0**-24, atol=0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("exponent_bits", "total_bits"), [(7, 8), (5, 8), (1, 8), (3, 5), (1, 2)])
def test_dynamic_map_against_torch_arithmetic(
    signed: bool, exponent_bits: int, total_bits: int
) -> None:
    """The same definition over torch's own float32 linspace, for every split of the bits."""
    fraction_bits = total_bits - 1 - exponent_bits
    values = [torch.tensor([0.0, 1.0])]

    def add(decade: int, count: int) -> None:
        edges = torch.linspace(0.1, 1, count + 1, dtype=torch.float32)
        means = 10.0 ** (decade - exponent_bits + 1) * ((edges[1:] + edges[:-1]) / 2)
        values.extend([means, -means] if signed else [means])

    for decade in range(exponent_bits):
        add(decade, 2 ** (decade + fraction_bits + (0 if signed else 1)))
    if fraction_bits:
        add(exponent_bits - 1, 2**fraction_bits - 1)
    expected = torch.zeros(256)
    found = torch.cat(values)
    expected[: len(found)] = found
    assert torch.equal(
        kq.create_dynamic_map(signed, exponent_bits, total_bits), expected.sort().values
    )


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_sorted_normalized_and_hold_zero(name: str) -> None:
    table = MAPS[name]
    assert table.shape == (256,)
    assert table.dtype == torch.float32
    assert (table[1:] >= table[:-1]).all()
    assert table.abs().max() == 1
    assert table.max() == 1
    assert (table == 0).any()


@pytest.mark.parametrize("name", [*MAPS, "nf4", "fp4"])
def test_midpoints_have_at_most_29_bits(name: str) -> None:
    """What makes code decisions exact in float64: 29 bits × 24 bits of a scale fit 53."""
    table = MAPS[name] if name in MAPS else kq.get_4bit_type(name).sort().values
    for low, high in pairwise(table.tolist()):
        midpoint = (Fraction(low) + Fraction(high)) / 2
        numerator = abs(midpoint.numerator)
        if numerator:
            odd = numerator // (numerator & -numerator)
            assert odd.bit_length() <= 29


def test_linear_map() -> None:
    """torch's float32 grid, with zeros added to make 256 entries."""
    with_zero = torch.cat((torch.linspace(-1, 1, 255), torch.zeros(1))).sort().values
    assert torch.equal(kq.create_linear_map(), with_zero)
    assert torch.equal(kq.create_linear_map(add_zero=False), torch.linspace(-1, 1, 256))
    assert torch.equal(kq.create_linear_map(signed=False), torch.linspace(0, 1, 256))
    small = torch.cat((torch.linspace(-1, 1, 7), torch.zeros(249))).sort().values
    assert torch.equal(kq.create_linear_map(total_bits=3), small)


def test_normal_map_is_nf4() -> None:
    values = kq.create_normal_map().unique()
    # NF4 was published from single-precision quantiles: offset and quotient are each off by up to
    # half an ulp, and the quantile function amplifies the former at most 1/pdf(ppf(p)) ≤ 14 times.
    torch.testing.assert_close(values, kq.get_4bit_type("nf4"), rtol=0, atol=16 * 2.0**-24)
    symmetric = kq.create_normal_map(use_extra_value=False).unique()
    assert torch.equal(symmetric, -symmetric.flip(0))
    assert symmetric.numel() == 15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kq.create_dynamic_map(total_bits=9), "total_bits must be in 2..8, got 9"),
        (lambda: kq.create_dynamic_map(max_exponent_bits=8), "max_exponent_bits must be in 1..7"),
        (lambda: kq.create_linear_map(total_bits=1), "total_bits must be in 2..8, got 1"),
        (lambda: kq.create_normal_map(offset=0.5), "offset must be between 0.5 and 1, got 0.5"),
    ],
)
def test_bad_arguments(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_shared_tables_are_shared() -> None:
    cpu = torch.device("cpu")
    assert shared_table("nf4", cpu) is shared_table("nf4", cpu)
    meta = torch.device("meta")
    assert shared_table("dynamic", meta) is shared_table("dynamic", meta)
