"""Cases of int8 operations with more than 2**31 elements, for FULL.

As in `kq_conformance.cases.large`, matrices are windows of a short array. Scales are 127 times a
power of two wherever results have to be windows, too, so that they have one answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import (
    Int8Product,
    Judgement,
    Strictness,
    Sums,
    WeightForm,
    accept_int8_sums,
    judge_sums,
)
from kq_conformance.cases.case import Case, Demand, Problem, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_inputs import int8_codes
from kq_conformance.cases.int8_problems import (
    Int8Dequant,
    Int8Linear,
    Int8LinearBackward,
    Int8Matmul,
    Int8MmDequant,
    Int8Quant,
    Int8Weight,
    codes_of,
)
from kq_conformance.cases.large import by_row, windows
from kq_conformance.cases.large_linear import correlate
from kq_conformance.cases.tiles import Tiled
from kq_conformance.floats import Array, Float64, Stored, store, stored_integers, values_of
from kq_conformance.reference import INT8_LARGEST, count_blocks, int8_quantize
from kq_conformance.subject import Outputs, Subject

__all__ = [
    "LargeInt8Linear",
    "LargeInt8LinearBackward",
    "LargeInt8Matmul",
    "decoded_int8",
    "encoded_int8",
    "large_int8_cases",
    "linear_backward_int8",
    "linear_int8",
    "matmul_int8",
    "scaled_int8",
]

_DTYPE = "bfloat16"
_ROWS, _COLS = 32_771, 65_537
_SHIFT = 64  # elements between the beginnings of rows


def _short(rows: int, cols: int) -> int:
    """Elements of the array of which a matrix shows windows: whole blocks."""
    return (rows + count_blocks(cols, _SHIFT)) * _SHIFT


def _windows(stored: Stored, rows: int, cols: int) -> Stored:
    return Stored(windows(stored.bits, rows, cols, _SHIFT), stored.dtype)


def _tiled(
    rows: int, cols: int, problem: Callable[[slice], Problem], short: dict[str, Stored]
) -> Tiled:
    """A call whose results are windows, or one number for each row."""

    def expected(outputs: Outputs) -> dict[str, list[Array]]:
        del outputs
        return {
            name: [
                _windows(each, rows, cols).bits
                if each.bits.ndim
                else np.broadcast_to(each.bits, (rows, 1))
            ]
            for name, each in short.items()
        }

    return Tiled(problem(slice(None)), expected, by_row(problem))


def encoded_int8(draw: Draw, rows: int, cols: int) -> Tiled:
    """int8_vectorwise_quant; each row begins with its largest number, 127/16."""
    values = np.clip(draw.bell(_short(rows, cols)), -3, 3)
    values[::_SHIFT] = INT8_LARGEST / 16
    x = store(values, _DTYPE)
    codes = stored_integers(np.rint(16 * values_of(x)), "int8")
    matrix = _windows(x, rows, cols)
    absmax = store(np.array(INT8_LARGEST / 16), "float32")
    return _tiled(
        rows,
        cols,
        lambda some: Int8Quant(Stored(matrix.bits[some], _DTYPE)),
        {"codes": codes, "absmax": absmax},
    )


def decoded_int8(draw: Draw, rows: int, cols: int) -> Tiled:
    """int8_vectorwise_dequant: code / 8."""
    short = int8_codes(draw, _short(rows, cols))
    matrix = _windows(short, rows, cols)
    absmax = store(np.full(rows, INT8_LARGEST / 8), "float32")
    return _tiled(
        rows,
        cols,
        lambda some: Int8Dequant(
            Stored(matrix.bits[some], "int8"), Stored(absmax.bits[some], "float32"), _DTYPE
        ),
        {"out": store(values_of(short) / 8, _DTYPE)},
    )


def scaled_int8(draw: Draw, rows: int, cols: int) -> Tiled:
    """int8_mm_dequant: sums that bfloat16 holds, times a power of two."""
    sums = 128 * (draw.integers(255, _short(rows, cols)) - 127)
    short = stored_integers(sums, "int32")
    matrix = _windows(short, rows, cols)
    scales = [store(np.full(size, INT8_LARGEST / 4), "float32") for size in (rows, cols)]
    return _tiled(
        rows,
        cols,
        lambda some: Int8MmDequant(
            Stored(matrix.bits[some], "int32"),
            Stored(scales[0].bits[some], "float32"),
            scales[1],
            None,
            _DTYPE,
        ),
        {"out": store(sums / 16, _DTYPE)},
    )


def _sums(row: Array, short: Stored, count: int) -> Array:
    """Codes [K] times each of `count` windows: int64 [1, count].

    The transform errs by far less than 1/2, so that the integers are exact.
    """
    padded = np.zeros(count_blocks(row.size, _SHIFT) * _SHIFT)
    padded[: row.size] = row
    blocks = values_of(short).reshape(-1, _SHIFT)
    by_window = correlate(padded.reshape(-1, _SHIFT), blocks).sum(axis=1)
    return np.asarray(np.rint(by_window[:count]).astype(np.int64).reshape(1, -1))


@dataclass(frozen=True, eq=False)
class LargeInt8Matmul:
    """One row of codes, times a matrix of windows of a short array."""

    whole: Int8Matmul
    short: Stored

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return self.whole.call(subject)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the sums."""
        del strictness  # there is no margin
        sums = _sums(codes_of(self.whole.a)[0], self.short, len(self.whole.b.bits))
        return [accept_int8_sums(sums).judge(outputs["out"])]


@dataclass(frozen=True, eq=False)
class LargeInt8Linear:
    """A layer whose weight are windows of a short array, and one row whose codes are decided."""

    whole: Int8Linear
    short: Stored

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return self.whole.call(subject)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the scaled sums."""
        del strictness  # there is no margin
        weight, x = self.whole.weight, int8_quantize(values_of(self.whole.x))
        sums = _sums(x.codes[0], self.short, len(weight.codes.bits)).astype(np.float64)
        product = Int8Product.of_sums(sums, x.absmax, weight.scales, None, self.whole.x.dtype)
        return [product.judge(values_of(outputs["out"]))]


@dataclass(frozen=True, eq=False)
class LargeInt8LinearBackward:
    """The gradient of such a layer for one row; scales are 127 times powers of two."""

    whole: Int8LinearBackward
    short: Stored

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return self.whole.call(subject)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the sums; weights are powers of two times codes, whatever holds them."""
        del strictness  # there is no margin
        grad, weight = values_of(self.whole.grad)[0], self.whole.weight
        blocks, cols = values_of(self.short).reshape(-1, _SHIFT), weight.codes.bits.shape[1]
        scaled = grad * weight.scales / INT8_LARGEST

        def summed(row: Float64, values: Float64) -> Float64:
            column = np.broadcast_to(row[:, None], (row.size, _SHIFT))
            return correlate(column, values).reshape(1, -1)[:, :cols]

        total, magnitude = summed(scaled, blocks), summed(np.abs(scaled), np.abs(blocks))
        zero = np.zeros(total.shape)
        # All products are counted, also those that are zero.
        sums = Sums(total, magnitude, zero, zero + grad.size, zero + np.abs(grad).sum())
        form = WeightForm("code · absmax / 127", zero, zero, _ROUNDINGS)
        return [judge_sums([(form, sums)], None, _DTYPE, values_of(outputs["out"]))]


_ROUNDINGS = 3  # of a product: the quotient, the weight, and its own


def _weight(draw: Draw, rows: int, cols: int) -> tuple[Stored, Int8Weight]:
    """The short array, and the weight of its windows."""
    short = int8_codes(draw, _short(rows, cols))
    absmax = np.ldexp(float(INT8_LARGEST), draw.integers(4, rows) - 9)
    return short, Int8Weight(_windows(short, rows, cols), store(absmax, "float32"))


def matmul_int8(draw: Draw, rows: int, cols: int) -> LargeInt8Matmul:
    """int8_linear_matmul of one row."""
    short, weight = _weight(draw, rows, cols)
    return LargeInt8Matmul(Int8Matmul(int8_codes(draw, 1, cols), weight.codes), short)


def linear_int8(draw: Draw, rows: int, cols: int) -> LargeInt8Linear:
    """int8_linear of one row: codes / 8, the largest among them."""
    short, weight = _weight(draw, rows, cols)
    x = values_of(int8_codes(draw, 1, cols)) / 8
    x[0, 0] = INT8_LARGEST / 8
    return LargeInt8Linear(Int8Linear(store(x, _DTYPE), weight, None), short)


def linear_backward_int8(draw: Draw, rows: int, cols: int) -> LargeInt8LinearBackward:
    """int8_linear_backward of one row."""
    short, weight = _weight(draw, rows, cols)
    grad = store(draw.bell(1, rows), _DTYPE)
    return LargeInt8LinearBackward(Int8LinearBackward(grad, weight), short)


_MAKERS: dict[str, tuple[Callable[[Draw, int, int], Problem], int]] = {
    "int8_vectorwise_quant": (encoded_int8, 3),
    "int8_vectorwise_dequant": (decoded_int8, 3),
    "int8_linear_matmul": (matmul_int8, 1),
    "int8_mm_dequant": (scaled_int8, 6),
    "int8_linear": (linear_int8, 1),
    "int8_linear_backward": (linear_backward_int8, 1),
}
"""The problem of each operation, and the bytes of an element in its tensors."""


def large_int8_cases() -> Iterator[Case]:
    """One case for each operation."""
    for op, (make, size) in _MAKERS.items():
        dtype = "int8" if op == "int8_linear_matmul" else _DTYPE
        shape = f"r{_ROWS}-c{_COLS}" if size > 1 else f"m1-n{_ROWS}-k{_COLS}"
        yield Case(
            f"{op}/int8/{dtype}/{shape}",
            Profile.FULL,
            Demand(op, dtype),
            lambda draw, make=make: make(draw, _ROWS, _COLS),  # type: ignore[misc]
            memory=_ROWS * _COLS * size,
        )
