"""Problems of the public functions of kq-functional."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np

from kq_conformance.bounds import (
    Bits,
    Interval,
    Judgement,
    Rule,
    Strictness,
    accept_absmax,
    accept_codes,
)
from kq_conformance.cases.case import Demand, Problem
from kq_conformance.cases.dequantizers import Dequantize4bit
from kq_conformance.cases.grouped_problems import (
    Experts,
    GroupedLinear4bit,
    GroupedLinear4bitBackward,
)
from kq_conformance.cases.linear_problems import Linear4bit, Linear4bitBackward
from kq_conformance.cases.quantizers import Quantize4bit
from kq_conformance.cases.weights import Weights
from kq_conformance.floats import FLOAT32, Float64, Stored, store, stored_bytes, values_of
from kq_conformance.reference import (
    NESTED_BLOCKSIZE,
    block_absmax,
    dynamic_map,
    groups,
    spread,
)
from kq_conformance.subject import Outputs, Route, StoredScales, Subject

__all__ = [
    "BiasGradient",
    "Check",
    "CompressStatistics",
    "GroupedBiasGradient",
    "Through",
    "bias_gradient",
    "public_functions",
]

_SOURCE = "conformance/README.md, 'Bounds'; Higham, ASNA, 2nd ed., eq. 3.5"

_BIAS_GRADIENT = Rule(
    "gradient of the bias",
    "|error| <= nu/(1-nu) Σ|grad| over n + 1 rows, u = 2^-24; then rounded to its type",
    _SOURCE,
)
_OFFSET = Rule("offset", "|error| <= nu/(1-nu) mean(absmax) of n scales, u = 2^-24", _SOURCE)


class PublicFunctions(Subject, Protocol):
    """What `Subject.public` gives beyond the operations; see `kq_conformance.public`."""

    def compress(self, x: Stored, *, quant_type: str, blocksize: int) -> Outputs:
        """Quantize with `compress_statistics`, and decode."""

    def gradients(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored,
        grad: Stored,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """The product and its gradients by autograd."""

    def grouped_gradients(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored,
        counts: Sequence[int],
        grad: Stored,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """The products of many experts and their gradients by autograd."""

    def int8_gradients(
        self,
        x: Stored,
        weight: Stored,
        absmax: Stored,
        bias: Stored,
        grad: Stored,
        *,
        threshold: float,
    ) -> Outputs:
        """The product by int8 codes and its gradients by autograd."""

    def int8_double_quant(self, x: Stored, *, threshold: float) -> Outputs:
        """Quantize rows and columns."""

    def check(
        self,
        name: str,
        op: str,
        dtype: str,
        quant_type: str | None,
        blocksize: int | None,
        rule: str | None = None,
        rounding: str | None = None,
    ) -> None:
        """Ask what has no results to compare with a reference."""


def public_functions(subject: Subject) -> PublicFunctions:
    """The public functions with the backend pinned."""
    return cast(PublicFunctions, subject.public(Route.PLAIN))


@dataclass(frozen=True)
class Through:
    """A problem of the contract, called through a public function."""

    problem: Problem
    route: Route

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        return self.problem.call(subject.public(self.route))

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        return self.problem.judge(outputs, strictness)


@dataclass(frozen=True)
class Check:
    """A question that the public functions answer with yes or an exception."""

    name: str
    demand: Demand

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        wanted = self.demand
        public_functions(subject).check(
            self.name,
            wanted.op,
            wanted.dtype,
            wanted.quant_type,
            wanted.blocksize,
            wanted.rule,
            wanted.rounding,
        )
        return {}

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        del outputs, strictness
        return ()


@dataclass(frozen=True)
class BiasGradient:
    """The product with a bias, and the gradients of x and of the bias by autograd."""

    x: Stored
    weights: Weights
    bias: Stored
    grad: Stored

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        w = self.weights
        return public_functions(subject).gradients(
            self.x,
            stored_bytes(w.packed),
            w.scales,
            self.bias,
            self.grad,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        product = Linear4bit(self.x, self.weights, self.bias).judge(outputs, strictness)
        gradient = Linear4bitBackward(self.grad, self.weights).judge(
            {"out": outputs["grad_x"]}, strictness
        )
        named = [replace(each, quantity="grad_x") for each in gradient]
        return [*product, *named, bias_gradient([values_of(self.grad)], outputs["grad_bias"])]


@dataclass(frozen=True)
class GroupedBiasGradient:
    """The products of many experts, and the gradients of x and of their biases by autograd."""

    x: Stored
    experts: Experts
    bias: Stored
    grad: Stored

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        w = self.experts.weights
        return public_functions(subject).grouped_gradients(
            self.x,
            stored_bytes(w.packed),
            w.scales,
            self.bias,
            self.experts.counts,
            self.grad,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        product = GroupedLinear4bit(self.x, self.experts, self.bias).judge(outputs, strictness)
        gradient = GroupedLinear4bitBackward(self.grad, self.experts).judge(
            {"out": outputs["grad_x"]}, strictness
        )
        named = [replace(each, quantity="grad_x") for each in gradient]
        grad = values_of(self.grad)
        parts = [grad[rows] for rows in groups(self.experts.counts)]
        return [*product, *named, bias_gradient(parts, outputs["grad_bias"])]


def bias_gradient(parts: Sequence[Float64], got: Stored) -> Judgement:
    """For each bias a sum of M numbers in float32, in any order, and one rounding to its type."""
    u = FLOAT32.unit_roundoff
    additions = np.array([[max(len(part) - 1, 0)] for part in parts])
    sizes, exact = (
        np.stack([each.sum(axis=0) for each in of])
        for of in ([np.abs(part) for part in parts], parts)
    )
    radius = additions * u / (1 - additions * u) * sizes
    ends = exact - radius, exact + radius
    accepted = Interval.rounded("grad_bias", exact, ends, got.dtype, _BIAS_GRADIENT)
    return accepted.judge(values_of(got).reshape(exact.shape))


_NESTED_CODE = Rule(
    "nested code map", "the signed dynamic map, bit for bit", "docs/FORMAT.md", exact=True
)


@dataclass(frozen=True)
class CompressStatistics:
    """Double quantization from end to end: quantize, look at all parts, decode."""

    x: Stored
    quant_type: str
    blocksize: int

    def call(self, subject: Subject) -> Outputs:
        """See `Problem.call`."""
        return public_functions(subject).compress(
            self.x, quant_type=self.quant_type, blocksize=self.blocksize
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """See `Problem.judge`."""
        absmax = block_absmax(values_of(self.x), self.blocksize)
        codes = Quantize4bit(self.x, self.quant_type, self.blocksize).judge(
            outputs | {"absmax": store(absmax, "float32")}, strictness
        )[1]
        # Any mean within its bound decodes correctly: what follows is judged at the stored one.
        offset = float(values_of(outputs["offset"]))
        residual = FLOAT32.round(absmax - offset).reshape(1, -1)
        book, nested = dynamic_map(True), block_absmax(residual, NESTED_BLOCKSIZE)
        nested_codes = accept_codes(
            "absmax", residual, spread(nested, residual.size, NESTED_BLOCKSIZE), book, strictness
        )
        nested_absmax = replace(accept_absmax(nested), quantity="nested_absmax")
        scales = StoredScales(*(outputs[name] for name in StoredScales._fields))
        packed, cols = outputs["packed"].bits, self.x.bits.shape[1]
        weights = Weights(packed, scales, cols, self.quant_type, self.blocksize)
        return [
            codes,
            self._mean(absmax).judge(values_of(outputs["offset"])),
            Bits("nested_code", store(book.values, "float32"), _NESTED_CODE).judge(
                outputs["nested_code"]
            ),
            nested_absmax.judge(_as_row(outputs["nested_absmax"])),
            nested_codes.judge(_as_row(outputs["absmax"]).bits),
            *Dequantize4bit(weights, self.x.dtype).judge(outputs, strictness),
        ]

    def _mean(self, absmax: Float64) -> Interval:
        """The mean of n numbers: n − 1 sums in any order, and one division."""
        n = absmax.size
        u = FLOAT32.unit_roundoff
        mean = np.asarray(absmax.mean())
        radius = n * u / (1 - n * u) * mean
        return Interval("offset", mean, mean - radius, mean + radius, _OFFSET)


def _as_row(stored: Stored) -> Stored:
    return Stored(stored.bits.reshape(1, -1), stored.dtype)
