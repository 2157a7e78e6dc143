"""Mistakes in the gradient of the linear layer with respect to its input."""

from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference_backend import ReferenceBackend

__all__: list[str] = []


@killed_by("linear_4bit_backward/nf4/b64/float32/m5-n33-k257")
class GradientTransposed(ReferenceBackend):
    """The weight is read as a matrix [K, N]."""

    def linear_backward(self, grad: Float64, weight: Float64) -> Float64:
        return super().linear_backward(grad, weight.T.reshape(weight.shape))


@killed_by("linear_4bit_backward/nf4/b64/float32/m16-n48-k64/nested")
class GradientWithoutNestedScales(ReferenceBackend):
    """The codes of double-quantized scales are taken for the scales."""

    _in_gradient = False

    def linear_4bit_backward(self, *tensors: Any, **options: Any) -> None:
        self._in_gradient = True
        super().linear_4bit_backward(*tensors, **options)
        self._in_gradient = False

    def scales(self, scales: Any) -> Float64:
        if self._in_gradient and scales.nested_absmax is not None:
            return self.codes(scales.absmax).astype(np.float64)
        return super().scales(scales)


@killed_by("linear_4bit_backward/nf4/b64/bfloat16/m16-n48-k64")
class GradientSummedInBfloat16(ReferenceBackend):
    """The sum over the outputs is rounded to bfloat16 after each addition."""

    def linear_backward(self, grad: Float64, weight: Float64) -> Float64:
        total = np.zeros((grad.shape[0], weight.shape[1]))
        with np.errstate(invalid="ignore"):
            for a, row in zip(grad.T, weight, strict=True):
                total = BFLOAT16.round(total + np.outer(a, row))
        return total


@killed_by("linear_4bit_backward/nf4/b64/float32/m2-n3-k65601")
class GradientIndexWraps(ReferenceBackend):
    """Stands for an overflow: the index of an input in the weight's rows has 16 bits."""

    def linear_backward(self, grad: Float64, weight: Float64) -> Float64:
        return super().linear_backward(grad, weight[:, np.arange(weight.shape[1]) % (1 << 16)])


@killed_by("linear_4bit_backward/nf4/b64/float32/m5-n33-k257")
class GradientMissesTheLastOutput(ReferenceBackend):
    """The sum goes over pairs of outputs, and an odd number of them loses the last."""

    def linear_backward(self, grad: Float64, weight: Float64) -> Float64:
        even = weight.shape[0] // 2 * 2
        return super().linear_backward(grad[:, :even], weight[:even])
