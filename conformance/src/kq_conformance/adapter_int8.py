"""The int8 operations of a backend on tensors of the arena."""

from typing import Any

from kq_conformance.arena import Arena, ask
from kq_conformance.floats import Stored
from kq_conformance.subject import Outputs

__all__ = ["Int8Operations"]


class Int8Operations:
    """A part of `kq_conformance.adapter.Adapter`."""

    _backend: Any

    def _arena(self) -> Arena:
        raise NotImplementedError

    def int8_vectorwise_quant(self, x: Stored, *, threshold: float) -> Outputs:
        """See `Subject.int8_vectorwise_quant`."""
        rows, cols = x.bits.shape
        arena = self._arena()
        return ask(
            arena,
            self._backend.int8_vectorwise_quant,
            arena.read("A", x, rows=True),
            arena.write("codes", (rows, cols), "int8"),
            arena.write("absmax", (rows,), "float32"),
            arena.write("outliers", (cols,), "bool") if threshold else None,
            threshold=threshold,
        )

    def int8_vectorwise_dequant(self, codes: Stored, absmax: Stored, dtype: str) -> Outputs:
        """See `Subject.int8_vectorwise_dequant`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.int8_vectorwise_dequant,
            arena.read("codes", codes),
            arena.read("absmax", absmax),
            arena.write("out", codes.bits.shape, dtype),
        )

    def int8_linear_matmul(self, a: Stored, b: Stored) -> Outputs:
        """See `Subject.int8_linear_matmul`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.int8_linear_matmul,
            arena.read("A", a, rows=True),
            arena.read("B", b),
            arena.write("out", (a.bits.shape[0], b.bits.shape[0]), "int32"),
        )

    def int8_mm_dequant(
        self,
        a: Stored,
        row_absmax: Stored,
        col_absmax: Stored,
        bias: Stored | None,
        dtype: str,
    ) -> Outputs:
        """See `Subject.int8_mm_dequant`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.int8_mm_dequant,
            arena.read("A", a, rows=True),
            arena.read("row_absmax", row_absmax),
            arena.read("col_absmax", col_absmax),
            None if bias is None else arena.read("bias", bias),
            arena.write("out", a.bits.shape, dtype),
        )

    def int8_linear(
        self,
        x: Stored,
        weight: Stored,
        absmax: Stored,
        bias: Stored | None,
        *,
        threshold: float,
    ) -> Outputs:
        """See `Subject.int8_linear`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.int8_linear,
            arena.read("x", x, rows=True),
            arena.read("weight", weight),
            arena.read("absmax", absmax),
            None if bias is None else arena.read("bias", bias),
            arena.write("out", (x.bits.shape[0], weight.bits.shape[0]), x.dtype),
            threshold=threshold,
        )

    def int8_linear_backward(self, grad: Stored, weight: Stored, absmax: Stored) -> Outputs:
        """See `Subject.int8_linear_backward`."""
        arena = self._arena()
        return ask(
            arena,
            self._backend.int8_linear_backward,
            arena.read("grad", grad, rows=True),
            arena.read("weight", weight),
            arena.read("absmax", absmax),
            arena.write("out", (grad.bits.shape[0], weight.bits.shape[1]), grad.dtype),
        )
