"""Stored codes and scales as the public `QuantState`, and what a state must say."""

import torch
from torch import Tensor

import kq_functional as kq
from kq_conformance.public.call import Call
from kq_conformance.reference import NESTED_BLOCKSIZE
from kq_conformance.subject import ContractBreachError, StoredScales

__all__ = ["check_state", "state_4bit", "state_8bit"]


def state_4bit(
    call: Call,
    scales: StoredScales,
    shape: tuple[int, ...],
    dtype: str,
    quant_type: str,
    blocksize: int,
    *,
    batch: bool = False,
) -> kq.QuantState:
    """A state in row layout; its tensors are among the inputs of a call.

    Args:
        call: whose tensors they become.
        scales: plain or double-quantized.
        shape: of the unquantized tensor.
        dtype: of the unquantized tensor.
        quant_type: "nf4" or "fp4".
        blocksize: elements that share a scale.
        batch: the codes are routed: for a batch of them the plain scales are one, too.
    """
    absmax = (call.take_batch if batch else call.take)("absmax", scales.absmax)
    offset = state2 = None
    if scales.nested_absmax is not None:
        assert scales.nested_code is not None
        assert scales.offset is not None
        offset = call.take("offset", scales.offset)
        state2 = kq.QuantState(
            absmax=call.take("nested_absmax", scales.nested_absmax),
            shape=absmax.shape,
            dtype=torch.float32,
            blocksize=NESTED_BLOCKSIZE,
            quant_type=None,
            code=call.take("nested_code", scales.nested_code),
            layout="flat",
        )
    return kq.QuantState(
        absmax=absmax,
        shape=torch.Size(shape),
        dtype=getattr(torch, dtype),
        blocksize=blocksize,
        quant_type=quant_type,
        code=kq.get_4bit_type(quant_type, absmax.device),
        offset=offset,
        state2=state2,
    )


def state_8bit(
    absmax: Tensor, code: Tensor, shape: tuple[int, ...], dtype: str, blocksize: int
) -> kq.QuantState:
    """A state of 8-bit codes in row layout."""
    return kq.QuantState(
        absmax=absmax,
        shape=torch.Size(shape),
        dtype=getattr(torch, dtype),
        blocksize=blocksize,
        quant_type=None,
        code=code,
    )


def check_state(
    state: kq.QuantState, A: Tensor, quant_type: str | None, blocksize: int, *, nested: bool = False
) -> None:
    """What a quantizer returns must describe what it was given.

    Raises:
        ContractBreachError: naming the field.
    """
    expected = {
        "shape": A.shape,
        "dtype": A.dtype,
        "blocksize": blocksize,
        "quant_type": quant_type,
        "layout": "row",
        "nested": nested,
    }
    for name, value in expected.items():
        found = getattr(state, name)
        if found != value:
            raise ContractBreachError(f"the state has {name} {found!r}, and must have {value!r}")
