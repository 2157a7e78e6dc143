"""Problems and cases of the public int8 functions that take more than one operation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kq_conformance.bounds import Judgement, Quantized, Strictness, accept_int8_absmax
from kq_conformance.cases.case import Case, Demand, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_inputs import THRESHOLD, UNUSUAL, Rows, int8_weight, with_outliers
from kq_conformance.cases.int8_problems import Int8Linear, Int8LinearBackward, Int8Quant
from kq_conformance.cases.public_problems import bias_gradient, public_functions
from kq_conformance.floats import Stored, store, values_of
from kq_conformance.reference import int8_outlier_elements
from kq_conformance.subject import Outputs, Subject

__all__ = ["public_int8_cases"]


@dataclass(frozen=True)
class Int8BiasGradient:
    """The product with a bias, and the gradients of x and of the bias by autograd.

    The gradient of x is that of a product that is not quantized: straight through the rounding.
    """

    product: Int8Linear
    grad: Stored

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        asked = self.product
        assert asked.bias is not None
        return public_functions(subject).int8_gradients(
            asked.x, *asked.weight, asked.bias, self.grad, threshold=asked.threshold
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        gradient = Int8LinearBackward(self.grad, self.product.weight).judge(
            {"out": outputs["grad_x"]}, strictness
        )
        return [
            *self.product.judge(outputs, strictness),
            *(replace(each, quantity="grad_x") for each in gradient),
            bias_gradient([values_of(self.grad)], outputs["grad_bias"]),
        ]


@dataclass(frozen=True)
class DoubleQuant:
    """Rows and columns of one matrix: columns are rows of its transpose without its outliers."""

    x: Stored
    threshold: float

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        return public_functions(subject).int8_double_quant(self.x, threshold=self.threshold)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        x = values_of(self.x)
        elements = int8_outlier_elements(x, self.threshold)
        columns = Quantized.of(np.where(elements, 0.0, x).T, 0.0, strictness)
        cleared = np.asarray(elements.any(axis=0))[:, None]
        columns = replace(
            columns,
            ratios=np.where(cleared, 0.0, columns.ratios),
            margin=np.where(cleared, 0.0, columns.margin),
        )
        by_column = (
            accept_int8_absmax(columns).judge(outputs["col_absmax"]),
            columns.judge(values_of(outputs["col_codes"]).T),
        )
        return [
            *Int8Quant(self.x, self.threshold).judge(outputs, strictness),
            *(replace(each, quantity=f"col_{each.quantity}") for each in by_column),
        ]


def public_int8_cases(dtype: str) -> Iterator[Case]:
    """What takes several operations of one backend."""

    def gradients(draw: Draw) -> Int8BiasGradient:
        x, weight = with_outliers(70, 130)(draw, dtype), int8_weight(draw, 33, 130)
        bias, grad = (store(draw.bell(*shape), dtype) for shape in ((33,), (70, 33)))
        return Int8BiasGradient(Int8Linear(x, weight, bias, THRESHOLD), grad)

    demand = Demand("int8_linear", dtype)
    name = f"int8_linear/int8/{dtype}/public/bias-gradient"
    yield Case(name, Profile.CORE, demand, gradients)

    demand = Demand("int8_vectorwise_quant", dtype)
    matrices: dict[str, tuple[Rows, float]] = {
        "random": (UNUSUAL["random"], 0.0),
        "outliers": (with_outliers(7, 133), THRESHOLD),
        "nonfinite": (UNUSUAL["nonfinite"], 2.5),
        "empty": (with_outliers(0, 5), THRESHOLD),
    }
    for kind, (rows, threshold) in matrices.items():

        def twice(draw: Draw, rows: Rows = rows, threshold: float = threshold) -> DoubleQuant:
            return DoubleQuant(rows(draw, dtype), threshold)

        name = f"{demand.op}/int8/{dtype}/public/double-quant/{kind}"
        yield Case(name, Profile.CORE, demand, twice)
