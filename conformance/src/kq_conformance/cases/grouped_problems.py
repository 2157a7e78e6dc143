"""One call of linear_4bit_grouped or linear_4bit_grouped_backward, and what it may give."""

from collections.abc import Sequence
from dataclasses import dataclass

from kq_conformance.bounds import (
    GroupedProduct,
    Judgement,
    Product,
    Strictness,
    WeightForm,
    weight_forms,
)
from kq_conformance.cases.weights import Weights
from kq_conformance.floats import Stored, stored_bytes, values_of
from kq_conformance.reference import groups
from kq_conformance.subject import Outputs, Subject

__all__ = ["Experts", "GroupedLinear4bit", "GroupedLinear4bitBackward"]


@dataclass(frozen=True)
class Experts:
    """The weights of E experts, and the rows that each of them gets.

    Attributes:
        weights: of all experts, one below the other: [E * N, K].
        counts: E of them, at least one.
    """

    weights: Weights
    counts: tuple[int, ...]

    @property
    def features(self) -> int:
        """N."""
        return len(self.weights.packed) // len(self.counts)

    def forms(self, dtype: str, strictness: Strictness) -> list[list[WeightForm]]:
        """Of each expert: the forms [N, K] in which its weight may be held."""
        weights = self.weights
        whole = weight_forms(weights.values, weights.enclosure(strictness), dtype)
        N = self.features
        starts = range(0, N * len(self.counts), N) if N else [0] * len(self.counts)
        return [[form[start : start + N] for form in whole] for start in starts]


@dataclass(frozen=True)
class GroupedLinear4bit:
    """One call of linear_4bit_grouped; bias is [E, N]."""

    x: Stored
    experts: Experts
    bias: Stored | None

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        w = self.experts.weights
        return subject.linear_4bit_grouped(
            self.x,
            stored_bytes(w.packed),
            w.scales,
            self.bias,
            self.experts.counts,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 products."""
        x, dtype = values_of(self.x), self.x.dtype
        bias = None if self.bias is None else values_of(self.bias)
        parts = [
            Product(
                x[rows],
                [form.transposed for form in forms],
                None if bias is None else bias[expert],
                dtype,
            )
            for expert, (rows, forms) in enumerate(_shares(self.experts, dtype, strictness))
        ]
        return [GroupedProduct(parts).judge(values_of(outputs["out"]))]


@dataclass(frozen=True)
class GroupedLinear4bitBackward:
    """One call of linear_4bit_grouped_backward."""

    grad: Stored
    experts: Experts

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""
        w = self.experts.weights
        return subject.linear_4bit_grouped_backward(
            self.grad,
            stored_bytes(w.packed),
            w.scales,
            self.experts.counts,
            w.cols,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare with the float64 products."""
        grad, dtype = values_of(self.grad), self.grad.dtype
        parts = [
            Product(grad[rows], forms, None, dtype)
            for rows, forms in _shares(self.experts, dtype, strictness)
        ]
        return [GroupedProduct(parts).judge(values_of(outputs["out"]))]


def _shares(
    experts: Experts, dtype: str, strictness: Strictness
) -> list[tuple[slice, list[WeightForm]]]:
    """The rows of each expert, and the forms of its weight."""
    return list(zip(groups(experts.counts), experts.forms(dtype, strictness), strict=True))
