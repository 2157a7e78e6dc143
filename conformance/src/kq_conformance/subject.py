"""What the cases see of a backend under test: NumPy in, NumPy out.

The cases and the reference know nothing of torch; `kq_conformance.adapter` implements this protocol
over a backend's destination-passing methods.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import NamedTuple, Protocol

from kq_conformance.floats import Stored
from kq_conformance.reference import Hyper

__all__ = [
    "REFUSALS",
    "ContractBreachError",
    "Outputs",
    "Placement",
    "Rounding",
    "Route",
    "RouteMissingError",
    "StoredScales",
    "Subject",
]

Outputs = dict[str, Stored]

# How a backend says that it does not do something.
REFUSALS = (NotImplementedError, TypeError, ValueError)


class ContractBreachError(Exception):
    """The backend wrote outside of its outputs, changed an input, or gave two answers."""


class RouteMissingError(Exception):
    """The public functions cannot be reached.

    kq-functional is not installed, or needs an operation for the call that the backend does not
    declare.
    """


class Placement(Enum):
    """Where tensors lie in memory. Where a system has no guard pages, guard bytes stand for them.

    Whatever lies outside of a tensor and is not a guard page holds bytes that read as NaN or as the
    highest code, and must be as it was after the call.
    """

    END = "each tensor ends where a guard page begins"
    BEFORE = "each tensor begins where a guard page ends"
    OFFSET = "each tensor begins one element past a 64-byte boundary"
    STRIDED = "rows of the unquantized input lie apart, and end where a guard page begins"


class Route(Enum):
    """How a call reaches the backend through the public functions of kq-functional."""

    PLAIN = "contiguous tensors"
    TRANSPOSED = "the unquantized input is the transpose of a contiguous tensor"
    SLICED = "the unquantized input is every second column of a wider tensor"
    EXPANDED = "the unquantized input has batch dimensions, one of them expanded"
    OUT = "results are written to tensors of the caller"


class StoredScales(NamedTuple):
    """The scales of a quantized matrix as a backend gets them.

    Attributes:
        absmax: float32 [R, blocks], or uint8 codes if the scales are quantized themselves.
        nested_absmax: float32 [ceil(R * blocks / 256)] or None.
        nested_code: float32 [256] or None.
        offset: float32 [] or None.
    """

    absmax: Stored
    nested_absmax: Stored | None = None
    nested_code: Stored | None = None
    offset: Stored | None = None


class Rounding(NamedTuple):
    """How an optimizer step stores the new parameters.

    Attributes:
        name: "nearest"; or, for bfloat16 only, "stochastic" or "corrected".
        seeds: for "stochastic", a 64-bit integer for each parameter.
        corrections: for "corrected", an int8 tensor in the shape of each parameter.
    """

    name: str = "nearest"
    seeds: Sequence[int] = ()
    corrections: Sequence[Stored] = ()


class Subject(Protocol):
    """The operations of the backend contract; results by name (see each implementation)."""

    def quantize_4bit(self, x: Stored, *, quant_type: str, blocksize: int) -> Outputs:
        """Return "packed" [R, ceil(C/2)] and "absmax" [R, blocks] of x [R, C]."""

    def dequantize_4bit(
        self,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        dtype: str,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """Return "out" [R, cols] in `dtype`."""

    def quantize_blockwise(self, x: Stored, code: Stored, *, blocksize: int) -> Outputs:
        """Return "codes" [R, C] and "absmax" [R, blocks] of x [R, C]."""

    def dequantize_blockwise(
        self, codes: Stored, code: Stored, absmax: Stored, dtype: str, *, blocksize: int
    ) -> Outputs:
        """Return "out" [R, C] in `dtype`."""

    def linear_4bit(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """Return "out" [M, N] for x [M, K] and packed [N, ceil(K/2)], in the type of x."""

    def linear_4bit_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """Return "out" [M, cols] for grad [M, N] and packed [N, ceil(cols/2)]."""

    def linear_4bit_grouped(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        counts: Sequence[int],
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """Return "out" [T, N] for x [T, K] and packed [E * N, ceil(K/2)]; E counts, at least 1."""

    def linear_4bit_grouped_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        counts: Sequence[int],
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """Return "out" [T, cols] for grad [T, N] and packed [E * N, ceil(cols/2)]."""

    def int8_vectorwise_quant(self, x: Stored, *, threshold: float) -> Outputs:
        """Return "codes" int8 [R, C] and "absmax" [R] of x [R, C].

        And "outliers" bool [C], where the threshold is not 0.
        """

    def int8_vectorwise_dequant(self, codes: Stored, absmax: Stored, dtype: str) -> Outputs:
        """Return "out" [R, C] in `dtype` for codes [R, C] and absmax [R]."""

    def int8_linear_matmul(self, a: Stored, b: Stored) -> Outputs:
        """Return "out" int32 [M, N] for int8 a [M, K] and b [N, K]."""

    def int8_mm_dequant(
        self,
        a: Stored,
        row_absmax: Stored,
        col_absmax: Stored,
        bias: Stored | None,
        dtype: str,
    ) -> Outputs:
        """Return "out" [M, N] in `dtype` for int32 a [M, N], row_absmax [M], col_absmax [N]."""

    def int8_linear(
        self,
        x: Stored,
        weight: Stored,
        absmax: Stored,
        bias: Stored | None,
        *,
        threshold: float,
    ) -> Outputs:
        """Return "out" [M, N] for x [M, K], int8 weight [N, K], absmax [N], in the type of x."""

    def int8_linear_backward(self, grad: Stored, weight: Stored, absmax: Stored) -> Outputs:
        """Return "out" [M, K] for grad [M, N], int8 weight [N, K] and absmax [N]."""

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        codes: Sequence[Stored],
        absmax: Sequence[Stored],
        code_maps: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
        *,
        rounding: Rounding,
    ) -> Outputs:
        """Return "params[i]", "codes[j]", "absmax[j]" after the step; j: state 1, then state 2, ...

        And "corrections[i]", where there are any.
        """

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        states: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
        *,
        rounding: Rounding,
    ) -> Outputs:
        """Return "params[i]" and "states[j]" after the step, j over state 1, then state 2, ...

        And "corrections[i]", where there are any.
        """

    def threads(self, number: int) -> AbstractContextManager[None]:
        """Run with this number of threads."""

    def placed(self, placement: Placement) -> AbstractContextManager[None]:
        """Lay the tensors of the calls inside the context out like this."""

    def public(self, route: Route) -> "Subject":
        """The same backend behind the public functions of kq-functional, pinned by `use_backend`.

        Raises:
            RouteMissingError: if kq-functional is not installed.
        """
