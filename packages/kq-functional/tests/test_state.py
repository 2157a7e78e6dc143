"""QuantState: immutable, checked when made."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import kq_functional as kq

CODES, STATE = kq.quantize_4bit(torch.ones(3, 70))
_, NESTED = kq.quantize_4bit(torch.ones(3, 70), compress_statistics=True)


def test_is_frozen_and_compared_by_identity() -> None:
    with pytest.raises(FrozenInstanceError):
        STATE.blocksize = 32  # type: ignore[misc]
    assert replace(STATE) != STATE
    assert len({STATE, STATE, NESTED}) == 2


def test_scales() -> None:
    assert STATE.scales == kq.Scales(STATE.absmax)
    assert not STATE.nested
    scales = NESTED.scales
    assert NESTED.nested
    assert scales.absmax is NESTED.absmax
    assert scales.nested_absmax is NESTED.state2.absmax
    assert scales.nested_code is NESTED.state2.code
    assert scales.offset is NESTED.offset


def test_to_returns_a_new_state() -> None:
    moved = NESTED.to("meta")
    tensors = [*moved.scales, moved.code]
    assert {t.device.type for t in tensors if t is not None} == {"meta"}
    assert NESTED.absmax.device.type == "cpu"
    assert moved.shape == NESTED.shape
    assert STATE.to("meta").offset is None


def test_pickle() -> None:
    copy = pickle.loads(pickle.dumps(NESTED))
    expected = kq.dequantize_4bit(CODES, NESTED)
    assert torch.equal(kq.dequantize_4bit(CODES, copy), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"quant_type": "int4"}, ValueError, "quant_type must be one of nf4, fp4, got 'int4'"),
        ({"blocksize": 100}, ValueError, "blocksize must be one of 32, .*, got 100"),
        ({"blocksize": 64.0}, TypeError, "blocksize must be an int, got float"),
        ({"quant_type": None, "blocksize": 0}, ValueError, "blocksize must be at least 1, got 0"),
        ({"layout": "tiled"}, ValueError, "layout must be one of row, flat, got 'tiled'"),
        ({"offset": torch.zeros(())}, ValueError, "offset and state2 must be given together"),
    ],
)
def test_bad_fields(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(STATE, **change)


def test_inner_block_size_is_fixed() -> None:
    _, inner = kq.quantize_blockwise(torch.ones(3), blocksize=128)
    with pytest.raises(ValueError, match=r"state2.blocksize must be 256, got 128"):
        replace(NESTED, state2=inner)
