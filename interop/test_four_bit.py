"""4-bit codes, scales and values equal those of bitsandbytes, byte for byte, on real weights.

Where they do not, bitsandbytes departs from the definition, and the test proves that before it
counts the difference (docs/INTEROP.md explains each):

* it compares a rounded quotient with a rounded midpoint, so a value whose ratio to absmax lies
  within an ulp above a midpoint can get the farther code;
* its 8-bit quantizer, used for double quantization, looks codes up in a table of 65,536 bins
  instead of finding the nearest one;
* its AVX-512 decoder takes the wrong scale where a row is not a whole number of blocks;
* a short last block of zeros gets a scale of 1e-38 instead of 0;
* in a block of equal scales, which are all zero after their mean is subtracted, it writes code 0
  where kq writes the code of zero (both decode to the mean);
* the mean of the scales depends on the number of threads in its case (never in ours), so that it is
  compared with one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import Tensor

import kq_functional as kq

BLOCKSIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]


# torch splits longer sums over its threads, which changes the mean of the scales.
SERIAL_SUM = 32768


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quantize_bnb(weight: Tensor, blocksize: int, quant_type: str, nested: bool):
    one = nested and weight.numel() > SERIAL_SUM * blocksize
    with torch_threads(1) if one else nullcontext():
        return bnb.quantize_4bit(
            weight, blocksize=blocksize, quant_type=quant_type, compress_statistics=nested
        )


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int32)


def nearer(target: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Whether a is strictly nearer to the target than b, or as near and lower.

    Exact: float64 holds the products of two float32 numbers, and differences of such close ones.
    """
    target, a, b = target.double(), a.double(), b.double()
    return ((a - target).abs() < (b - target).abs()) | (
        ((a - target).abs() == (b - target).abs()) & (a < b)
    )


def farther_codes(weight: Tensor, ours: Tensor, theirs: Tensor, state: kq.QuantState) -> int:
    """How many codes differ; each must be the nearest of ours and a farther one of theirs."""
    different = (ours != theirs).flatten().nonzero().flatten()
    if different.numel() == 0:
        return 0
    mine, other = (
        torch.stack([p.flatten()[different] >> 4, p.flatten()[different] & 15], dim=1).flatten()
        for p in (ours, theirs)
    )
    index = torch.stack([2 * different, 2 * different + 1], dim=1).flatten()[mine != other]
    scale = state.absmax[index // state.blocksize].double()
    target, code = weight.flatten()[index], state.code.double()
    a, b = (code[c[mine != other].long()] * scale for c in (mine, other))
    assert nearer(target, a, b).all()
    # ... and theirs is off by no more than the rounding of a quotient: 2 ulp of a value up to 1.
    ratio, middle = target.double() / scale, (a + b) / 2 / scale
    assert ((ratio - middle).abs() <= 2 * 2.0**-24).all()
    return index.numel()


def zero_tail(weight: Tensor, blocksize: int) -> bool:
    """Whether the last block is a short one of zeros."""
    rest = weight.numel() % blocksize
    return rest > 0 and not weight.flatten()[-rest:].any()


def adopt(state: bnb.QuantState) -> kq.QuantState:
    """A bitsandbytes state as ours: the same tensors."""
    inner = state.state2
    return kq.QuantState(
        absmax=state.absmax,
        shape=state.shape,
        dtype=state.dtype,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        code=state.code,
        layout="flat",
        offset=state.offset,
        state2=None
        if inner is None
        else kq.QuantState(
            inner.absmax, state.absmax.shape, torch.float32, 256, None, inner.code, layout="flat"
        ),
    )


@pytest.mark.parametrize("blocksize", BLOCKSIZES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_codes_and_scales(weights, report, quant_type, blocksize) -> None:
    count: Counter[str] = Counter()
    for name, weight in weights.items():
        theirs, their_state = quantize_bnb(weight, blocksize, quant_type, nested=False)
        ours, state = kq.quantize_4bit(
            weight, blocksize=blocksize, quant_type=quant_type, layout="flat"
        )
        assert ours.shape == theirs.shape, name
        if zero_tail(weight, blocksize):
            assert state.absmax[-1] == 0
            assert their_state.absmax[-1] == torch.tensor(1e-38), name
            their_state.absmax[-1] = 0
            count["short last blocks of zeros with another scale"] += 1
        assert torch.equal(bits(state.absmax), bits(their_state.absmax)), name
        count["codes nearest to the value, not so theirs"] += farther_codes(
            weight, ours, theirs, state
        )
        if weight.shape[-1] % blocksize == 0:  # then blocks along rows are the same blocks
            by_row, row_state = kq.quantize_4bit(weight, blocksize=blocksize, quant_type=quant_type)
            assert torch.equal(by_row.flatten(), ours.flatten()), name
            assert torch.equal(bits(row_state.absmax).flatten(), bits(state.absmax)), name
        count["tensors"] += 1
        count["codes"] += weight.numel()
    report[f"codes {quant_type} {blocksize} {count['tensors']} tensors"] = dict(count)


@pytest.mark.parametrize("blocksize", BLOCKSIZES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_double_quantization(weights, report, quant_type, blocksize) -> None:
    count: Counter[str] = Counter()
    for name, weight in weights.items():
        if zero_tail(weight, blocksize):  # another scale, hence another mean
            continue
        _, their_state = quantize_bnb(weight, blocksize, quant_type, nested=True)
        _, state = kq.quantize_4bit(
            weight,
            blocksize=blocksize,
            quant_type=quant_type,
            compress_statistics=True,
            layout="flat",
        )
        assert torch.equal(bits(state.offset.reshape(1)), bits(their_state.offset.reshape(1))), name
        assert torch.equal(bits(state.state2.absmax), bits(their_state.state2.absmax)), name
        assert torch.equal(bits(state.state2.code), bits(their_state.state2.code)), name
        # Scales whose 8-bit code differs: ours must be the nearest, theirs not.
        a, b = state.absmax.flatten(), their_state.absmax.flatten()
        spread = state.state2.absmax.repeat_interleave(256)[: a.numel()] > 0
        assert (b[~spread] == 0).all()
        different = ((a != b) & spread).nonzero().flatten()
        if different.numel():
            _, plain = kq.quantize_4bit(
                weight, blocksize=blocksize, quant_type=quant_type, layout="flat"
            )
            scale = state.state2.absmax.double()[different // 256]
            target = (plain.absmax - state.offset)[different].double()
            code = state.state2.code.double()
            better = nearer(
                target, code[a[different].long()] * scale, code[b[different].long()] * scale
            )
            assert better.all(), name
        count["scales"] += a.numel()
        count["scales in blocks of equal ones, with another 8-bit code"] += int((~spread).sum())
        count["scales with another 8-bit code"] += different.numel()
    report[f"double quantization {quant_type} {blocksize} {len(weights)} tensors"] = dict(count)


def wrong_scales(weight: Tensor, blocksize: int) -> bool:
    """Where the AVX-512 decoder of bitsandbytes takes the scale of another block."""
    return weight.dim() > 1 and weight.shape[-1] % 16 == 0 and weight.shape[-1] % blocksize != 0


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("blocksize", BLOCKSIZES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_decoded_values(weights, report, quant_type, blocksize, nested) -> None:
    """From bitsandbytes' codes and scales: by the definition, and equal to its values."""
    count: Counter[str] = Counter()
    for name, weight in weights.items():
        packed, their_state = quantize_bnb(weight, blocksize, quant_type, nested)
        state = adopt(their_state)
        scales = their_state.absmax
        if nested:
            inner = their_state.state2
            blocks = torch.arange(scales.numel()) // 256
            scales = inner.code[scales.long()] * inner.absmax[blocks] + their_state.offset
        nibbles = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()
        values = their_state.code[nibbles[: weight.numel()].long()]
        exact = values * scales.repeat_interleave(blocksize)[: weight.numel()]
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            out = torch.empty(weight.shape, dtype=dtype)
            ours = kq.dequantize_4bit(packed, state, out=out)
            assert torch.equal(ours.flatten(), exact.to(dtype)), name
            their_state.dtype = dtype
            theirs = bnb.dequantize_4bit(packed, their_state).reshape(weight.shape)
            if wrong_scales(weight, blocksize):
                count["elements where theirs is not code * absmax"] += int((ours != theirs).sum())
            else:
                assert torch.equal(ours, theirs), (name, dtype)
            count["elements"] += weight.numel()
    report[f"decoded {quant_type} {blocksize} nested={nested} {len(weights)} tensors"] = dict(count)
