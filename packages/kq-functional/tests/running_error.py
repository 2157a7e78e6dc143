"""float64 values that carry a bound on how far a float32 computation of them may be off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Half the spacing of subnormal numbers: the absolute error of rounding to the dtype.
TINY = {torch.float32: 2.0**-150, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25}


@dataclass
class Approx:
    """A float64 value and a bound on the error of a float32 computation of it.

    Every operation passes the errors of its operands on and adds one rounding, which also holds
    for a computation that fuses two operations, or that takes a factor from double.
    """

    value: Tensor
    error: Tensor

    def rounded(self, dtype: torch.dtype = torch.float32) -> Approx:
        largest = self.value.abs() + self.error
        return Approx(self.value, self.error + UNIT[dtype] * largest + TINY[dtype])

    def __neg__(self) -> Approx:
        return Approx(-self.value, self.error)

    def __add__(self, other: Approx) -> Approx:
        return Approx(self.value + other.value, self.error + other.error).rounded()

    def __sub__(self, other: Approx) -> Approx:
        return self + -other

    def __mul__(self, other: Approx) -> Approx:
        error = self.value.abs() * other.error + other.value.abs() * self.error
        return Approx(self.value * other.value, error + self.error * other.error).rounded()

    def __truediv__(self, other: Approx) -> Approx:
        least = other.value.abs() - other.error
        error = (self.error + (self.value / other.value).abs() * other.error) / least
        return Approx(self.value / other.value, error).rounded()

    def sqrt(self) -> Approx:
        low = (self.value - self.error).clamp(min=0).sqrt()
        high = (self.value + self.error).sqrt()
        root = self.value.clamp(min=0).sqrt()
        return Approx(root, torch.maximum(root - low, high - root)).rounded()

    def sign(self) -> Approx:
        certain = self.value.abs() > self.error
        return Approx(self.value.sign(), torch.where(certain, 0.0, 1 + self.value.sign().abs()))

    def maximum(self, other: Approx) -> Approx:
        error = torch.maximum(self.error, other.error)
        return Approx(torch.maximum(self.value, other.value), error)

    def minimum(self, other: Approx) -> Approx:
        return -(-self).maximum(-other)

    def norm(self) -> Approx:
        """The 2-norm: by the triangle inequality it is off by at most the norm of the errors."""
        return Approx(self.value.norm(), self.error.norm()).rounded()


def exact(value: Tensor) -> Approx:
    return Approx(value.double(), torch.zeros(value.shape, dtype=torch.float64))


def factor(value: float) -> Approx:
    """A scalar computed in double and rounded to float32."""
    return exact(torch.tensor(value, dtype=torch.float64)).rounded()


def within(found: Tensor, bound: Approx) -> bool:
    return bool(((found.double() - bound.value).abs() <= bound.error).all())
