"""A backend whose operations are the float64 reference, stored in the caller's tensors.

It is the first client of the suite, and the healthy body of the mutants (`kq_conformance.mutants`):
each step of an operation is a small method, so that a mistake is one method. Tensors are read and
written through their address, shape and strides; neither torch nor a kq package is needed.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kq_conformance import reference
from kq_conformance.floats import FLOAT32, FORMATS, Array, Float64
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, OPTIMIZER_BLOCKSIZE, Codebook, Hyper

__all__ = ["Capability", "ReferenceBackend", "backend", "format_of", "memory"]

_QUANT_TYPES = frozenset({"nf4", "fp4"})
_RULES = frozenset({"adam"})
_FOUR_BIT_OPS = (
    *("quantize_4bit", "dequantize_4bit", "linear_4bit", "linear_4bit_backward"),
    *("linear_4bit_grouped", "linear_4bit_grouped_backward"),
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


def _capabilities() -> tuple[Capability, ...]:
    sizes = frozenset(FOUR_BIT_BLOCKSIZES)
    return (
        *(Capability(op, quant_types=_QUANT_TYPES, blocksizes=sizes) for op in _FOUR_BIT_OPS),
        Capability("quantize_blockwise"),
        Capability("dequantize_blockwise"),
        Capability("optimizer_step_8bit", rules=_RULES),
        Capability("optimizer_step_32bit", rules=_RULES),
    )


def format_of(tensor: Any) -> str:
    """The name of a tensor's type: "float32", "bfloat16", "float16" or "uint8"."""
    return str(tensor.dtype).removeprefix("torch.")


def memory(tensor: Any, before: int = 0, after: int = 0) -> Array:
    """The memory of a contiguous tensor as uint8 [bytes].

    Args:
        tensor: a tensor on the processor.
        before: bytes before its first that are shown, too: not its own, for mutants.
        after: the same behind its last byte.
    """
    size = before + tensor.numel() * tensor.element_size() + after
    raw = (ctypes.c_uint8 * size).from_address(tensor.data_ptr() - before)
    return np.ndarray((size,), dtype=np.uint8, buffer=raw)


def _bits(tensor: Any) -> Array:
    """The bit patterns of a tensor in place, in its shape and with its strides."""
    kind = FORMATS[format_of(tensor)].bits_dtype if tensor.element_size() > 1 else np.dtype("u1")
    shape = tuple(tensor.shape)
    if 0 in shape:
        return np.zeros(shape, dtype=kind)
    strides = tuple(kind.itemsize * step for step in tensor.stride())
    size = kind.itemsize + sum(
        (length - 1) * step for length, step in zip(shape, strides, strict=True)
    )
    raw = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    return np.ndarray(shape, dtype=kind, buffer=raw, strides=strides)


def _hyper(options: Mapping[str, Any]) -> Hyper:
    """What the update rule reads; the rest of the options says that nothing special is asked."""
    return Hyper(**{field.name: options[field.name] for field in fields(Hyper)})


class ReferenceBackend:
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

    # Memory.

    def codes(self, tensor: Any) -> Array:
        """Read codes: uint8, in the shape of the tensor."""
        return _bits(tensor).copy()

    def load(self, tensor: Any) -> Float64:
        """Read numbers: float64, in the shape of the tensor."""
        return FORMATS[format_of(tensor)].decode(_bits(tensor))

    def write(self, tensor: Any, bits: Array) -> None:
        """Write codes or bit patterns."""
        _bits(tensor)[...] = bits

    def store(self, tensor: Any, values: Float64) -> None:
        """Write numbers, rounded to the type of the tensor."""
        chosen = FORMATS[format_of(tensor)]
        self.write(tensor, chosen.encode(chosen.round(values)))

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

    def check_rule(self, rule: str) -> None:
        """Refuse what is not declared.

        Raises:
            NotImplementedError: naming the argument.
        """
        if rule not in _RULES:
            raise NotImplementedError(f"rule must be one of {sorted(_RULES)}, got {rule!r}")

    # The steps of the operations.

    def codebook(self, quant_type: str) -> Codebook:
        """The table of a 4-bit type."""
        return reference.codebook_4bit(quant_type)

    def code_map(self, values: Float64) -> Codebook:
        """The table of an 8-bit operation, from the caller's values [256]."""
        return reference.codebook_8bit(values)

    def absmax(self, x: Float64, blocksize: int) -> Float64:
        """The scale of each block [R, blocks] of x [R, C]."""
        return reference.block_absmax(x, blocksize)

    def spread(self, per_block: Float64, cols: int, blocksize: int) -> Float64:
        """The scale of each element [R, cols], from those of the blocks [R, blocks]."""
        return reference.spread(per_block, cols, blocksize)

    def encode(self, x: Float64, scale: Float64, book: Codebook) -> Array:
        """The code of each element; scale has the shape of x."""
        return reference.encode(x, scale, book)

    def decode(self, codes: Array, scale: Float64, book: Codebook) -> Float64:
        """The number of each code, unrounded; scale has the shape of codes."""
        return reference.decode(codes, scale, book)

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

    def adam(
        self, p: Float64, g: Float64, m: Float64, v: Float64, step: int, hyper: Hyper
    ) -> tuple[Float64, Float64, Float64]:
        """One step of one tensor; returns the new p, m and v."""
        return reference.adam(p, g, m, v, step, hyper)

    def load_state(self, codes: Array, absmax: Float64, book: Codebook) -> Float64:
        """Decode a state [n] from codes [n] and absmax [ceil(n/256)]."""
        scale = self.spread(absmax.reshape(1, -1), codes.size, OPTIMIZER_BLOCKSIZE)
        return self.decode(codes, scale.reshape(-1), book)

    def code_state(self, state: Float64, book: Codebook) -> tuple[Array, Float64]:
        """Encode a state [n]: codes [n] and absmax [ceil(n/256)]."""
        row = FLOAT32.round(state).reshape(1, -1)
        absmax = self.absmax(row, OPTIMIZER_BLOCKSIZE)
        codes = self.encode(row, self.spread(absmax, row.size, OPTIMIZER_BLOCKSIZE), book)
        return codes.reshape(-1), absmax.reshape(-1)

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

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        """Step each tensor of the list; states: first moments of all, then second ones."""
        self.check_rule(rule)
        for i, step in enumerate(steps):
            tensors = (params[i], states[i], states[len(params) + i])
            p, m, v = (self.load(each) for each in tensors)
            stepped = self.adam(p, self.load(grads[i]), m, v, step, _hyper(hyper))
            for tensor, values in zip(tensors, stepped, strict=True):
                self.store(tensor, values)

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        codes: Sequence[Any],
        absmax: Sequence[Any],
        code_maps: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        """Step each tensor of the list: decode, update, encode with new scales."""
        self.check_rule(rule)
        books = [self.code_map(self.load(each)) for each in code_maps]
        for i, step in enumerate(steps):
            places = (i, len(params) + i)
            m, v = (
                self.load_state(self.codes(codes[j]).reshape(-1), self.load(absmax[j]), book)
                for j, book in zip(places, books, strict=True)
            )
            p, g = (self.load(each).reshape(-1) for each in (params[i], grads[i]))
            p, m, v = self.adam(p, g, m, v, step, _hyper(hyper))
            self.store(params[i], p.reshape(tuple(params[i].shape)))
            for j, state, book in zip(places, (m, v), books, strict=True):
                new_codes, scales = self.code_state(state, book)
                self.write(codes[j], new_codes.reshape(tuple(codes[j].shape)))
                self.store(absmax[j], scales)


backend = ReferenceBackend()
