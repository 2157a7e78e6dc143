"""A backend in NumPy float32: the first client of the suite, and the healthy body of the mutants.

It reads and writes the tensors it is given through their addresses, so that it needs neither torch
nor any kq package, and computes the way a straightforward float32 kernel does: it shares the
codebooks and the number formats with the reference, and no arithmetic.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kq_conformance.floats import FORMATS, Array
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, codebook_4bit

__all__ = ["Capability", "NumpyBackend", "backend"]

_ALL = frozenset(FORMATS)
_OPTIMIZER_BLOCKSIZE = 256
_NESTED_BLOCKSIZE = 256
_KINDS: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.float32),
}


@dataclass(frozen=True)
class Capability:
    """What `kq_conformance.discovery.Declaration` describes."""

    op: str
    dtypes: frozenset[str] = _ALL
    devices: frozenset[str] | None = frozenset({"cpu"})
    quant_types: frozenset[str] = frozenset()
    blocksizes: frozenset[int] | None = None
    rules: frozenset[str] = frozenset()


def _array(tensor: Any) -> Array:
    """The memory of a tensor: float32, or bit patterns of 16-bit types, or bytes."""
    kind = _KINDS[tensor.element_size()]
    shape: tuple[int, ...] = tuple(tensor.shape)
    if 0 in shape:
        return np.zeros(shape, dtype=kind)
    size = tensor.numel() * kind.itemsize
    memory = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    return np.ndarray(shape, dtype=kind, buffer=memory)


def _format(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _load(tensor: Any) -> Array:
    """Values as float32."""
    array = _array(tensor)
    if array.dtype == np.float32:
        return array
    with np.errstate(invalid="ignore"):  # signaling NaN become quiet ones
        return FORMATS[_format(tensor)].decode(array).astype(np.float32)


def _store(tensor: Any, values: Array) -> None:
    """Round float32 values to the tensor's type."""
    if _format(tensor) == "float32":
        _array(tensor)[...] = values
    else:
        chosen = FORMATS[_format(tensor)]
        _array(tensor)[...] = chosen.encode(chosen.round(values))


def _per_element(per_block: Array, cols: int, blocksize: int) -> Array:
    return per_block[:, np.arange(cols) // blocksize]


def _absmax(x: Array, blocksize: int) -> Array:
    if x.shape[1] == 0:
        return np.zeros((x.shape[0], 0), dtype=np.float32)
    starts = np.arange(0, x.shape[1], blocksize)
    absmax = np.maximum.reduceat(np.abs(x), starts, axis=1)
    return np.where(np.isnan(absmax), np.float32(np.nan), absmax)


def _nearest(x: Array, absmax: Array, ascending: Array, zero: int) -> Array:
    """Count the midpoints below x / absmax.

    x > T · absmax is decided in extended precision: both products of 24 bits and the midpoint (25
    bits for these codebooks) fit its 64 bits.
    """
    midpoints = (ascending[:-1].astype(np.longdouble) + ascending[1:]) / 2
    healthy = (absmax > 0) & np.isfinite(absmax)
    x = np.where(healthy, x, 0).astype(np.longdouble)
    scale = np.where(healthy, absmax, 1).astype(np.longdouble)
    index = np.searchsorted(midpoints, x / scale)
    # The quotient was rounded: the midpoints beside it decide by products.
    for neighbor in (index - 1, index):
        inside = (neighbor >= 0) & (neighbor < len(midpoints))
        above = x > midpoints[np.clip(neighbor, 0, len(midpoints) - 1)] * scale
        index = np.where(inside, np.where(above, neighbor + 1, np.minimum(index, neighbor)), index)
    return np.where(healthy, index, zero)


def _product(a: Array, b: Array) -> Array:
    """Multiply a @ b in float32, in one order of summation; a BLAS has one per thread count."""
    total = np.zeros((a.shape[0], b.shape[1]), dtype=np.float32)
    for k in range(a.shape[1]):
        total += a[:, k, None] * b[None, k, :]
    return total


def _check_rule(rule: str) -> None:
    if rule != "adam":
        raise NotImplementedError(f"rule must be 'adam', got {rule!r}")


def _adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> tuple[Array, Array, Array]:
    """Adam in float32; NumPy rounds each Python number once to float32."""
    correction1, correction2 = 1 - beta1**step, (1 - beta2**step) ** 0.5
    with np.errstate(invalid="ignore"):
        g = -g if maximize else g
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        size = lr * correction2 / correction1
        return p - size * m / (np.sqrt(v) + eps * correction2), m, v


class NumpyBackend:
    """Every operation of the contract, one call after the other, in float32."""

    name = "numpy"
    version = np.__version__
    capabilities = (
        *(
            Capability(op, quant_types=frozenset({"nf4", "fp4"}), blocksizes=frozenset(sizes))
            for sizes in (FOUR_BIT_BLOCKSIZES,)
            for op in ("quantize_4bit", "dequantize_4bit", "linear_4bit", "linear_4bit_backward")
        ),
        Capability("quantize_blockwise"),
        Capability("dequantize_blockwise"),
        Capability("optimizer_step_8bit", rules=frozenset({"adam"})),
        Capability("optimizer_step_32bit", rules=frozenset({"adam"})),
    )

    # The parts that a mutant replaces.
    absmax = staticmethod(_absmax)
    nearest = staticmethod(_nearest)
    product = staticmethod(_product)
    adam = staticmethod(_adam)

    def describe(self) -> dict[str, str]:
        """Versions."""
        return {"numpy": np.__version__}

    def quantize_4bit(
        self, A: Any, packed: Any, absmax: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """Quantize A [R, C]."""
        x, book = _load(A), codebook_4bit(quant_type)
        scales = self.absmax(x, blocksize)
        _store(absmax, scales)
        order = book.order
        ascending = book.values[order].astype(np.float32)
        zero = int(np.flatnonzero(order == book.zero)[0])
        index = self.nearest(x, _per_element(scales, x.shape[1], blocksize), ascending, zero)
        codes = np.full((x.shape[0], x.shape[1] + x.shape[1] % 2), book.zero, dtype=np.uint8)
        codes[:, : x.shape[1]] = order[index]
        _array(packed)[...] = codes[:, ::2] * 16 + codes[:, 1::2]

    def scales(self, scales: Any) -> Array:
        """Scales in float32."""
        if scales.nested_absmax is None:
            return _load(scales.absmax)
        codes, code = _array(scales.absmax), _load(scales.nested_code)
        group = np.arange(codes.size).reshape(codes.shape) // _NESTED_BLOCKSIZE
        return code[codes] * _load(scales.nested_absmax)[group] + _load(scales.offset)

    def weights(
        self, packed: Any, scales: Any, cols: int, quant_type: str, blocksize: int
    ) -> Array:
        """Decode a matrix in float32."""
        pairs = _array(packed)
        codes = np.empty((pairs.shape[0], 2 * pairs.shape[1]), dtype=np.uint8)
        codes[:, ::2], codes[:, 1::2] = pairs // 16, pairs % 16
        table = codebook_4bit(quant_type).values.astype(np.float32)
        absmax = _per_element(self.scales(scales), cols, blocksize)
        with np.errstate(invalid="ignore", over="ignore"):
            return table[codes[:, :cols]] * absmax

    def dequantize_4bit(
        self, packed: Any, scales: Any, out: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """Decode into out [R, C]."""
        _store(out, self.weights(packed, scales, out.shape[1], quant_type, blocksize))

    def quantize_blockwise(
        self, A: Any, code: Any, codes: Any, absmax: Any, *, blocksize: int
    ) -> None:
        """Quantize A [R, C]."""
        x, table = _load(A), _load(code)
        scales = self.absmax(x, blocksize)
        _store(absmax, scales)
        zero = int(np.argmin(np.abs(table)))
        _array(codes)[...] = self.nearest(
            x, _per_element(scales, x.shape[1], blocksize), table, zero
        )

    def dequantize_blockwise(
        self, codes: Any, code: Any, absmax: Any, out: Any, *, blocksize: int
    ) -> None:
        """Decode into out [R, C]."""
        scales = _per_element(_load(absmax), out.shape[1], blocksize)
        with np.errstate(invalid="ignore", over="ignore"):
            _store(out, _load(code)[_array(codes)] * scales)

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
        weights = self.weights(packed, scales, x.shape[1], quant_type, blocksize)
        with np.errstate(invalid="ignore"):
            y = self.product(_load(x), weights.T)
            _store(out, y if bias is None else y + _load(bias))

    def linear_4bit_backward(
        self, grad: Any, packed: Any, scales: Any, out: Any, *, quant_type: str, blocksize: int
    ) -> None:
        """Multiply: out [M, K] = grad [M, N] W."""
        weights = self.weights(packed, scales, out.shape[1], quant_type, blocksize)
        with np.errstate(invalid="ignore"):
            _store(out, self.product(_load(grad), weights))

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        """Step each tensor of the list."""
        _check_rule(rule)
        count = len(params)
        for i, step in enumerate(steps):
            m, v = _load(states[i]), _load(states[count + i])
            p, m, v = self.adam(_load(params[i]), _load(grads[i]), m, v, step, **hyper)
            for tensor, values in ((params[i], p), (states[i], m), (states[count + i], v)):
                _store(tensor, values)

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
        """Step each tensor of the list: decode, update, encode."""
        _check_rule(rule)
        count = len(params)
        for i, step in enumerate(steps):
            places = (i, count + i)
            with np.errstate(invalid="ignore"):
                m, v = (
                    _load(code)[_array(codes[j])]
                    * _load(absmax[j])[np.arange(codes[j].numel()) // _OPTIMIZER_BLOCKSIZE]
                    for j, code in zip(places, code_maps, strict=True)
                )
            p, m, v = self.adam(_load(params[i]), _load(grads[i]), m, v, step, **hyper)
            _store(params[i], p)
            for j, code, state in zip(places, code_maps, (m, v), strict=True):
                table, row = _load(code), state.reshape(1, -1)
                scales = self.absmax(row, _OPTIMIZER_BLOCKSIZE)
                _store(absmax[j], scales[0])
                scale = _per_element(scales, row.shape[1], _OPTIMIZER_BLOCKSIZE)
                zero = int(np.argmin(np.abs(table)))
                _array(codes[j])[...] = self.nearest(row, scale, table, zero)[0]


backend = NumpyBackend()
