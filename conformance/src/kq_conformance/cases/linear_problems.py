"""One call of linear_4bit or linear_4bit_backward, and what it may give."""

from collections.abc import Sequence
from dataclasses import dataclass

from kq_conformance.bounds import Judgement, Product, Strictness, WeightForm, weight_forms
from kq_conformance.cases.weights import Weights
from kq_conformance.floats import Stored, stored_bytes, values_of
from kq_conformance.subject import Outputs, Subject

__all__ = ["Linear4bit", "Linear4bitBackward"]


@dataclass(frozen=True)
class Linear4bit:
    """One call of linear_4bit."""

    x: Stored
    weights: Weights
    bias: Stored | None

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        w = self.weights
        return subject.linear_4bit(
            self.x,
            stored_bytes(w.packed),
            w.scales,
            self.bias,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 product."""
        return [self.product(strictness).judge(values_of(outputs["out"]))]

    def product(self, strictness: Strictness) -> Product:
        """The product x Wᵀ + b."""
        forms = [form.transposed for form in _forms(self.weights, self.x.dtype, strictness)]
        bias = None if self.bias is None else values_of(self.bias)
        return Product(values_of(self.x), forms, bias, self.x.dtype)


@dataclass(frozen=True)
class Linear4bitBackward:
    """One call of linear_4bit_backward."""

    grad: Stored
    weights: Weights

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        w = self.weights
        return subject.linear_4bit_backward(
            self.grad,
            stored_bytes(w.packed),
            w.scales,
            w.cols,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 product."""
        return [self.product(strictness).judge(values_of(outputs["out"]))]

    def product(self, strictness: Strictness) -> Product:
        """The product G W."""
        forms = _forms(self.weights, self.grad.dtype, strictness)
        return Product(values_of(self.grad), forms, None, self.grad.dtype)


def _forms(weights: Weights, dtype: str, strictness: Strictness) -> list[WeightForm]:
    return weight_forms(weights.values, weights.enclosure(strictness), dtype)
