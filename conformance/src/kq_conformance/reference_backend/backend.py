"""The reference behind the backend contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kq_conformance import reference
from kq_conformance.floats import FLOAT32, FORMATS, Array, Float64
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, RULES, Codebook
from kq_conformance.reference_backend.int8 import Int8
from kq_conformance.reference_backend.steps import WITH_STATES, OptimizerSteps

__all__ = ["Capability", "ReferenceBackend", "backend"]

_QUANT_TYPES = frozenset({"nf4", "fp4"})
_BFLOAT16 = frozenset({"bfloat16"})
_FOUR_BIT_OPS = (
    *("quantize_4bit", "dequantize_4bit", "linear_4bit", "linear_4bit_backward"),
    *("linear_4bit_grouped", "linear_4bit_grouped_backward"),
)
_INT8_OPS = (
    *("int8_vectorwise_quant", "int8_vectorwise_dequant", "int8_mm_dequant"),
    *("int8_linear", "int8_linear_backward"),
)


@dataclass(frozen=True)
class Capability:
    """What `kq_conformance.discovery.Declaration` describes."""

    op: str
    dtypes: frozenset[str] = frozenset(FORMATS)
    devices: frozenset[str] | None = frozenset({"cpu"})
    quant_types: frozenset[str] = frozenset()
    blocksizes: frozenset[int] | None = None
    rules: frozenset[str] = frozenset()
    roundings: frozenset[str] = frozenset({"nearest"})


def _capabilities() -> tuple[Capability, ...]:
    sizes = frozenset(FOUR_BIT_BLOCKSIZES)
    return (
        *(Capability(op, quant_types=_QUANT_TYPES, blocksizes=sizes) for op in _FOUR_BIT_OPS),
        Capability("quantize_blockwise"),
        Capability("dequantize_blockwise"),
        *(Capability(op) for op in _INT8_OPS),
        Capability("int8_linear_matmul", dtypes=frozenset({"int8"})),
        *_steps("optimizer_step_8bit", WITH_STATES),
        *_steps("optimizer_step_32bit", frozenset(RULES)),
    )


def _steps(op: str, rules: frozenset[str]) -> tuple[Capability, ...]:
    others = frozenset({"stochastic", "corrected"})
    return (
        Capability(op, rules=rules),
        Capability(op, dtypes=_BFLOAT16, rules=rules, roundings=others),
    )


class ReferenceBackend(Int8, OptimizerSteps):
    """The reference behind the backend contract.

    What it takes: contiguous tensors on the processor; the unquantized input of a quantizer, a
    linear layer or its gradient may have rows that lie apart. A product is computed in float64 and
    rounded once, to the type of the result.
    """

    name = "reference"
    version = "0.1.0"
    capabilities: Sequence[Capability] = _capabilities()

    def describe(self) -> dict[str, str]:
        """What it computes with."""
        return {"numpy": np.__version__}

    # Arguments.

    def check_4bit(self, quant_type: str, blocksize: int) -> None:
        """Refuse what is not declared.

        Raises:
            NotImplementedError: naming the argument.
        """
        if quant_type not in _QUANT_TYPES:
            raise NotImplementedError(
                f"quant_type must be one of {sorted(_QUANT_TYPES)}, got {quant_type!r}"
            )
        if blocksize not in FOUR_BIT_BLOCKSIZES:
            raise NotImplementedError(
                f"blocksize must be one of {FOUR_BIT_BLOCKSIZES}, got {blocksize!r}"
            )

    def check_blockwise(self, blocksize: int) -> None:
        """Refuse a block without elements.

        Raises:
            NotImplementedError: naming the argument.
        """
        if blocksize < 1:
            raise NotImplementedError(f"blocksize must be at least 1, got {blocksize!r}")

    # The steps of the operations.

    def codebook(self, quant_type: str) -> Codebook:
        """The table of a 4-bit type."""
        return reference.codebook_4bit(quant_type)

    def pack(self, codes: Array, zero: int) -> Array:
        """Two codes in a byte: [R, C] to [R, ceil(C/2)]."""
        return reference.pack(codes, zero)

    def unpack(self, packed: Array, cols: int) -> Array:
        """The codes of packed bytes: [R, ceil(C/2)] to [R, cols]."""
        return reference.unpack(packed, cols)

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        """Decode double-quantized scales [R, blocks]."""
        return reference.decode_scales(codes, absmax, code, offset)

    def scales(self, scales: Any) -> Float64:
        """The scales [R, blocks] of a quantized matrix."""
        if scales.nested_absmax is None:
            return self.load(scales.absmax)
        offset = float(self.load(scales.offset).reshape(()))
        codes, absmax = self.codes(scales.absmax), self.load(scales.nested_absmax)
        return self.nested(codes, absmax, self.load(scales.nested_code), offset)

    def weights(
        self, packed: Any, scales: Any, cols: int, quant_type: str, blocksize: int
    ) -> Float64:
        """The numbers [R, cols] of a quantized matrix, unrounded."""
        self.check_4bit(quant_type, blocksize)
        scale = self.spread(self.scales(scales), cols, blocksize)
        return self.decode(self.unpack(self.codes(packed), cols), scale, self.codebook(quant_type))

    def store_decoded(self, out: Any, decoded: Float64) -> None:
        """Round products of code and scale to float32, and then to the type of the result."""
        self.store(out, FLOAT32.round(decoded))

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        """Multiply x [M, K] by weight [N, K] transposed, and add bias [N]."""
        return reference.linear(x, weight, bias)

    def linear_backward(self, grad: Float64, weight: Float64) -> Float64:
        """Multiply grad [M, N] by weight [N, K]."""
        return reference.linear_backward(grad, weight)

    def linear_grouped(
        self, x: Float64, weights: Float64, counts: Sequence[int], bias: Float64 | None
    ) -> Float64:
        """Multiply the rows of each expert by its weight, of [E, N, K], and add its bias."""
        return reference.linear_grouped(x, weights, counts, bias)

    def linear_grouped_backward(
        self, grad: Float64, weights: Float64, counts: Sequence[int]
    ) -> Float64:
        """Multiply the rows of each expert by its weight of [E, N, K]."""
        return reference.linear_grouped_backward(grad, weights, counts)

    # The operations, as `kq_functional.backends.base.Backend` documents them.

    def quantize_4bit(
        self, A: Any, packed: Any, absmax: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """Quantize A [R, C] into packed [R, ceil(C/2)] and absmax [R, blocks]."""
        self.check_4bit(quant_type, blocksize)
        x, book = self.load(A), self.codebook(quant_type)
        scales = self.absmax(x, blocksize)
        codes = self.encode(x, self.spread(scales, x.shape[1], blocksize), book)
        self.store(absmax, scales)
        self.write(packed, self.pack(codes, book.zero))

    def dequantize_4bit(
        self, packed: Any, scales: Any, out: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """Decode into out [R, C]."""
        decoded = self.weights(packed, scales, out.shape[1], quant_type, blocksize)
        self.store_decoded(out, decoded)

    def quantize_blockwise(
        self, A: Any, code: Any, codes: Any, absmax: Any, *, blocksize: int
    ) -> None:
        """Quantize A [R, C] into codes [R, C] and absmax [R, blocks]."""
        self.check_blockwise(blocksize)
        x, book = self.load(A), self.code_map(self.load(code))
        scales = self.absmax(x, blocksize)
        coded = self.encode(x, self.spread(scales, x.shape[1], blocksize), book)
        self.store(absmax, scales)
        self.write(codes, coded)

    def dequantize_blockwise(
        self, codes: Any, code: Any, absmax: Any, out: Any, *, blocksize: int
    ) -> None:
        """Decode into out [R, C]."""
        self.check_blockwise(blocksize)
        scale = self.spread(self.load(absmax), out.shape[1], blocksize)
        decoded = self.decode(self.codes(codes), scale, self.code_map(self.load(code)))
        self.store_decoded(out, decoded)

    def linear_4bit(
        self,
        x: Any,
        packed: Any,
        scales: Any,
        bias: Any,
        out: Any,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Multiply: out [M, N] = x [M, K] Wᵀ + bias."""
        weight = self.weights(packed, scales, x.shape[1], quant_type, blocksize)
        added = None if bias is None else self.load(bias)
        self.store(out, self.linear(self.load(x), weight, added))

    def linear_4bit_backward(
        self, grad: Any, packed: Any, scales: Any, out: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """Multiply: out [M, K] = grad [M, N] W."""
        weight = self.weights(packed, scales, out.shape[1], quant_type, blocksize)
        self.store(out, self.linear_backward(self.load(grad), weight))

    def linear_4bit_grouped(
        self, x: Any, packed: Any, scales: Any, bias: Any, counts: Any, out: Any, **o: Any
    ) -> None:
        """Multiply the rows of each of E experts: out [T, N], packed [E * N, ceil(K/2)]."""
        shape = (len(counts), out.shape[1], x.shape[1])
        weights = self.weights(packed, scales, x.shape[1], **o).reshape(shape)
        added = None if bias is None else self.load(bias)
        self.store(out, self.linear_grouped(self.load(x), weights, counts, added))

    def linear_4bit_grouped_backward(
        self, grad: Any, packed: Any, scales: Any, counts: Any, out: Any, **o: Any
    ) -> None:
        """Multiply the rows of each of E experts: out [T, K], packed [E * N, ceil(K/2)]."""
        shape = (len(counts), grad.shape[1], out.shape[1])
        weights = self.weights(packed, scales, out.shape[1], **o).reshape(shape)
        self.store(out, self.linear_grouped_backward(self.load(grad), weights, counts))


backend = ReferenceBackend()
