"""One call of an int8 operation, and what it may give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kq_conformance.bounds import (
    Int8Product,
    Judgement,
    Product,
    Quantized,
    Strictness,
    accept_int8_absmax,
    accept_int8_decoded,
    accept_int8_outliers,
    accept_int8_sums,
    int8_weight_forms,
)
from kq_conformance.floats import Array, Float64, Stored, values_of
from kq_conformance.subject import Outputs, Subject

__all__ = [
    "Int8Dequant",
    "Int8Linear",
    "Int8LinearBackward",
    "Int8Matmul",
    "Int8MmDequant",
    "Int8Quant",
    "Int8Weight",
    "codes_of",
]


def codes_of(stored: Stored) -> Array:
    """Stored integers as int64."""
    return values_of(stored).astype(np.int64)


class Int8Weight(NamedTuple):
    """A weight [N, K] by rows.

    Attributes:
        codes: int8 [N, K].
        absmax: float32 [N].
    """

    codes: Stored
    absmax: Stored

    @property
    def scales(self) -> Float64:
        """Values of absmax."""
        return values_of(self.absmax)


@dataclass(frozen=True)
class Int8Quant:
    """One call of int8_vectorwise_quant."""

    x: Stored
    threshold: float = 0.0

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.int8_vectorwise_quant(self.x, threshold=self.threshold)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Scales and outliers to the bit; codes as far as float32 decides them."""
        quantized = Quantized.of(values_of(self.x), self.threshold, strictness)
        judged = [accept_int8_absmax(quantized).judge(outputs["absmax"])]
        if self.threshold:
            judged.append(accept_int8_outliers(quantized).judge(outputs["outliers"]))
        return [*judged, quantized.judge(values_of(outputs["codes"]))]


@dataclass(frozen=True)
class Int8Dequant:
    """One call of int8_vectorwise_dequant."""

    codes: Stored
    absmax: Stored
    dtype: str

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.int8_vectorwise_dequant(self.codes, self.absmax, self.dtype)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with code · absmax / 127."""
        del strictness  # the order of the two operations is free
        absmax = values_of(self.absmax)
        accepted = accept_int8_decoded(codes_of(self.codes), absmax, self.dtype)
        return [accepted.judge(values_of(outputs["out"]))]


@dataclass(frozen=True)
class Int8Matmul:
    """One call of int8_linear_matmul."""

    a: Stored
    b: Stored

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.int8_linear_matmul(self.a, self.b)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Sums of integers have one answer."""
        del strictness
        return [accept_int8_sums(codes_of(self.a), codes_of(self.b)).judge(outputs["out"])]


@dataclass(frozen=True)
class Int8MmDequant:
    """One call of int8_mm_dequant."""

    a: Stored
    row_absmax: Stored
    col_absmax: Stored
    bias: Stored | None
    dtype: str

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.int8_mm_dequant(
            self.a, self.row_absmax, self.col_absmax, self.bias, self.dtype
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the scaled sums."""
        del strictness  # the order of the operations is free
        product = Int8Product.of_sums(
            values_of(self.a),
            values_of(self.row_absmax),
            values_of(self.col_absmax),
            None if self.bias is None else values_of(self.bias),
            self.dtype,
        )
        return [product.judge(values_of(outputs["out"]))]


@dataclass(frozen=True)
class Int8Linear:
    """One call of int8_linear."""

    x: Stored
    weight: Int8Weight
    bias: Stored | None
    threshold: float = 0.0

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.int8_linear(self.x, *self.weight, self.bias, threshold=self.threshold)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the product of the quantized rows."""
        x = values_of(self.x)
        quantized = Quantized.of(x, self.threshold, strictness)
        bias = None if self.bias is None else values_of(self.bias)
        codes, absmax = codes_of(self.weight.codes), self.weight.scales
        product = Int8Product.of_rows(x, quantized, codes, absmax, bias, self.x.dtype)
        judged = product.judge(values_of(outputs["out"]))
        judged.figures["undecided"] = quantized.undecided
        return [judged]


@dataclass(frozen=True)
class Int8LinearBackward:
    """One call of int8_linear_backward."""

    grad: Stored
    weight: Int8Weight

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        return subject.int8_linear_backward(self.grad, *self.weight)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 product."""
        del strictness  # the order of the operations is free
        codes, absmax = codes_of(self.weight.codes), self.weight.scales
        forms = int8_weight_forms(codes, absmax, self.grad.dtype)
        product = Product(values_of(self.grad), forms, None, self.grad.dtype)
        return [product.judge(values_of(outputs["out"]))]
