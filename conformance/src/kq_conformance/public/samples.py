"""Valid calls of each public function, small and the same on every machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import kq_functional as kq
from kq_conformance.public.states import state_8bit
from kq_conformance.reference import RULES

__all__ = ["Invocation", "Sample", "invocations", "tensors_in"]


@dataclass(frozen=True)
class Sample:
    """What is called.

    Attributes:
        op: name of the operation.
        dtype: of the unquantized tensor.
        quant_type: "nf4" or "fp4"; None for operations that are not of 4 bits.
        blocksize: elements that share a scale; None where it does not apply.
        device: torch device type of all tensors.
        rule: update rule of an optimizer.
        rounding: of the parameters that an optimizer steps.
    """

    op: str
    dtype: str
    quant_type: str | None
    blocksize: int | None
    device: str
    rule: str = "adam"
    rounding: str = "nearest"


@dataclass(frozen=True, eq=False)
class Invocation:
    """A function and its arguments by name."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def run(self) -> Any:
        """Call."""
        return self.function(**self.arguments)

    def having(self, **changes: Any) -> "Invocation":
        """The same call with other arguments."""
        return Invocation(self.function, self.arguments | changes)


def tensors_in(value: Any, name: str) -> dict[str, Tensor]:
    """All tensors in an argument or a result: itself, in a list or tuple, or in a state."""
    if isinstance(value, Tensor):
        return {name: value}
    found: dict[str, Tensor] = {}
    if isinstance(value, dict):
        for key, each in value.items():
            found |= tensors_in(each, key)
    if isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            found |= tensors_in(each, f"{name}[{i}]")
    if isinstance(value, kq.QuantState):
        for part in ("absmax", "code", "offset", "state2"):
            found |= tensors_in(getattr(value, part), f"{name}.{part}")
    return found


def invocations(sample: Sample) -> dict[str, Invocation]:
    """The forms in which the function of an operation is called, all of them valid."""
    return _FORMS[sample.op](sample)


class _Maker:
    """Tensors on the device of a sample."""

    def __init__(self, sample: Sample) -> None:
        self.device = sample.device
        self.dtype: torch.dtype = getattr(torch, sample.dtype)

    def numbers(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Numbers between −1 and 1."""
        count = int(torch.Size(shape).numel())
        values = (torch.arange(count) * 37 % 101 - 50) / 64
        return values.view(shape).to(self.device, dtype or self.dtype)

    def scales(self, *shape: int) -> Tensor:
        """Positive float32 numbers."""
        return self.numbers(*shape, dtype=torch.float32).abs() + 0.25

    def codes(self, *shape: int) -> Tensor:
        """Bytes."""
        count = int(torch.Size(shape).numel())
        return (torch.arange(count) * 37 % 256).to(torch.uint8).view(shape).to(self.device)

    def int8(self, *shape: int) -> Tensor:
        """Codes of either sign."""
        return self.codes(*shape).view(torch.int8).clamp(min=-127)

    def code_map(self, signed: bool = True) -> Tensor:
        """The dynamic map."""
        return kq.create_dynamic_map(signed).to(self.device)

    def weight(self, sample: Sample, shape: tuple[int, ...], nested: bool = False) -> kq.QuantState:
        """The state of a 4-bit tensor."""
        assert sample.quant_type is not None
        assert sample.blocksize is not None
        blocks = (*shape[:-1], -(-shape[-1] // sample.blocksize))
        offset = state2 = None
        if nested:
            offset = self.scales(1).view(())
            state2 = state_8bit(self.scales(1), self.code_map(), blocks, "float32", blocksize=256)
        return kq.QuantState(
            absmax=self.codes(*blocks) if nested else self.scales(*blocks),
            shape=torch.Size(shape),
            dtype=self.dtype,
            blocksize=sample.blocksize,
            quant_type=sample.quant_type,
            code=kq.get_4bit_type(sample.quant_type, self.device),
            offset=offset,
            state2=state2,
        )


def _quantize_4bit(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    A = make.numbers(3, 70)
    format_ = {"blocksize": sample.blocksize, "quant_type": sample.quant_type, "layout": "row"}
    plain = Invocation(kq.quantize_4bit, {"A": A, **format_})
    packed, scales = torch.zeros_like(make.codes(3, 35)), make.scales(3, -(-70 // _size(sample)))
    return {"plain": plain, "out": plain.having(out=packed, absmax=scales)}


def _dequantize_4bit(sample: Sample) -> dict[str, Invocation]:
    make, shape = _Maker(sample), (3, 70)
    state = make.weight(sample, shape)
    packed, out = make.codes(3, 35), make.numbers(*shape)
    plain = Invocation(kq.dequantize_4bit, {"A": packed, "quant_state": state})
    parts: dict[str, Any] = {"absmax": state.absmax, "out": out}
    parts |= {"blocksize": sample.blocksize, "quant_type": sample.quant_type}
    return {
        "plain": plain,
        "nested": plain.having(quant_state=make.weight(sample, shape, nested=True)),
        "out": plain.having(out=out),
        "parts": Invocation(kq.dequantize_4bit, {"A": packed, **parts}),
    }


def _quantize_blockwise(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    format_ = {"code": make.code_map(), "blocksize": sample.blocksize, "layout": "row"}
    plain = Invocation(kq.quantize_blockwise, {"A": make.numbers(3, 300), **format_})
    codes, scales = torch.zeros_like(make.codes(3, 300)), make.scales(3, -(-300 // _size(sample)))
    return {"plain": plain, "out": plain.having(out=codes, absmax=scales)}


def _dequantize_blockwise(sample: Sample) -> dict[str, Invocation]:
    make, size = _Maker(sample), _size(sample)
    codes, scales, code = make.codes(3, 300), make.scales(3, -(-300 // size)), make.code_map()
    state = state_8bit(scales, code, (3, 300), sample.dtype, size)
    plain = Invocation(kq.dequantize_blockwise, {"A": codes, "quant_state": state})
    out = make.numbers(3, 300)
    parts = {"absmax": scales, "code": code, "blocksize": size, "out": out}
    return {
        "plain": plain,
        "out": plain.having(out=out),
        "parts": Invocation(kq.dequantize_blockwise, {"A": codes, **parts}),
    }


def _linear_4bit(sample: Sample) -> dict[str, Invocation]:
    make, shape = _Maker(sample), (6, 70)
    plain = Invocation(
        kq.linear_4bit,
        {
            "x": make.numbers(4, 70),
            "packed": make.codes(6, 35),
            "quant_state": make.weight(sample, shape),
            "bias": make.numbers(6),
        },
    )
    return {
        "plain": plain,
        "nested": plain.having(quant_state=make.weight(sample, shape, nested=True)),
    }


def _linear_4bit_backward(sample: Sample) -> dict[str, Invocation]:
    make, shape = _Maker(sample), (6, 70)
    state = make.weight(sample, shape)
    arguments = {
        "grad": make.numbers(4, 6),
        "packed": make.codes(6, 35),
        "absmax": state.absmax,
        "shape": list(shape),
        "blocksize": sample.blocksize,
        "quant_type": sample.quant_type,
        "layout": "row",
    }
    return {"plain": Invocation(torch.ops.kq.linear_4bit_backward, arguments)}


_COUNTS = [2, 0, 3]


def _linear_4bit_grouped(sample: Sample) -> dict[str, Invocation]:
    make, shape = _Maker(sample), (3, 6, 70)
    plain = Invocation(
        kq.linear_4bit_grouped,
        {
            "x": make.numbers(5, 70),
            "packed": make.codes(3, 6, 35),
            "quant_state": make.weight(sample, shape),
            "counts": _COUNTS,
            "bias": make.numbers(3, 6),
        },
    )
    return {
        "plain": plain,
        "nested": plain.having(quant_state=make.weight(sample, shape, nested=True)),
        "counted": plain.having(counts=torch.tensor(_COUNTS)),
    }


def _linear_4bit_grouped_backward(sample: Sample) -> dict[str, Invocation]:
    make, shape = _Maker(sample), (3, 6, 70)
    arguments = {
        "grad": make.numbers(5, 6),
        "packed": make.codes(3, 6, 35),
        "absmax": make.weight(sample, shape).absmax,
        "counts": torch.tensor(_COUNTS),
        "shape": list(shape),
        "blocksize": sample.blocksize,
        "quant_type": sample.quant_type,
        "layout": "row",
    }
    return {"plain": Invocation(torch.ops.kq.linear_4bit_grouped_backward, arguments)}


def _int8_vectorwise_quant(sample: Sample) -> dict[str, Invocation]:
    A = _Maker(sample).numbers(3, 70)
    plain = Invocation(kq.int8_vectorwise_quant, {"A": A, "threshold": 0.0})
    return {"plain": plain, "outliers": plain.having(threshold=0.75)}


def _int8_vectorwise_dequant(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    arguments = {"codes": make.int8(3, 70), "absmax": make.scales(3), "dtype": make.dtype}
    return {"plain": Invocation(kq.int8_vectorwise_dequant, arguments)}


def _int8_linear_matmul(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    return {
        "plain": Invocation(kq.int8_linear_matmul, {"A": make.int8(4, 70), "B": make.int8(6, 70)})
    }


def _int8_mm_dequant(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    arguments = {
        "A": make.int8(4, 6).int() * 1000,
        "row_absmax": make.scales(4),
        "col_absmax": make.scales(6),
        "bias": make.numbers(6),
        "dtype": make.dtype,
    }
    return {"plain": Invocation(kq.int8_mm_dequant, arguments)}


def _int8_linear(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    scales = make.scales(6)
    plain = Invocation(
        kq.int8_linear,
        {
            "x": make.numbers(4, 70),
            "weight": make.int8(6, 70),
            "absmax": scales,
            "bias": make.numbers(6),
            "threshold": 0.0,
        },
    )
    return {
        "plain": plain,
        "outliers": plain.having(threshold=0.75),
        "bits": plain.having(absmax=scales.view(torch.int32)),
    }


def _int8_linear_backward(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    arguments = {
        "grad": make.numbers(4, 6),
        "weight": make.int8(6, 70),
        "absmax": make.scales(6),
    }
    return {"plain": Invocation(torch.ops.kq.int8_linear_backward, arguments)}


_SIZES = (300, 21)


def _step(sample: Sample, make: _Maker) -> dict[str, Any]:
    """What both optimizer steps take."""
    rule = RULES[sample.rule]
    hyper = rule.hyper(weight_decay=0.1, decoupled=rule.decouples)
    seeds = [7, -7] if sample.rounding == "stochastic" else []
    corrected = _SIZES if sample.rounding == "corrected" else ()
    return {
        "rule": sample.rule,
        "params": [make.numbers(size) for size in _SIZES],
        "grads": [make.numbers(size) for size in _SIZES],
        "steps": [3, 1],
        "rounding": sample.rounding,
        "seeds": seeds,
        "corrections": [make.codes(size).view(torch.int8) for size in corrected],
        **hyper.common,
        **hyper.own,
    }


def _optimizer_step_8bit(sample: Sample) -> dict[str, Invocation]:
    make, signed = _Maker(sample), RULES[sample.rule].signed
    sizes = _SIZES * len(signed)
    states = {
        "codes": [make.codes(size) for size in sizes],
        "absmax": [make.scales(-(-size // 256)) for size in sizes],
        "code_maps": [make.code_map(each) for each in signed],
    }
    return {"plain": Invocation(kq.optimizer_step_8bit, _step(sample, make) | states)}


def _optimizer_step_32bit(sample: Sample) -> dict[str, Invocation]:
    make = _Maker(sample)
    states = [make.scales(size) for size in _SIZES * len(RULES[sample.rule].signed)]
    arguments = _step(sample, make) | {"states": states}
    return {"plain": Invocation(kq.optimizer_step_32bit, arguments)}


def _size(sample: Sample) -> int:
    assert sample.blocksize is not None
    return sample.blocksize


_FORMS: dict[str, Callable[[Sample], dict[str, Invocation]]] = {
    "quantize_4bit": _quantize_4bit,
    "dequantize_4bit": _dequantize_4bit,
    "quantize_blockwise": _quantize_blockwise,
    "dequantize_blockwise": _dequantize_blockwise,
    "linear_4bit": _linear_4bit,
    "linear_4bit_backward": _linear_4bit_backward,
    "linear_4bit_grouped": _linear_4bit_grouped,
    "linear_4bit_grouped_backward": _linear_4bit_grouped_backward,
    "int8_vectorwise_quant": _int8_vectorwise_quant,
    "int8_vectorwise_dequant": _int8_vectorwise_dequant,
    "int8_linear_matmul": _int8_linear_matmul,
    "int8_mm_dequant": _int8_mm_dequant,
    "int8_linear": _int8_linear,
    "int8_linear_backward": _int8_linear_backward,
    "optimizer_step_8bit": _optimizer_step_8bit,
    "optimizer_step_32bit": _optimizer_step_32bit,
}
