"""The int8 operations of `Subject`, as calls of the public functions."""

import numpy as np
import torch
from torch import Tensor

import kq_functional as kq
from kq_conformance.floats import Stored, stored_integers
from kq_conformance.public.call import Call
from kq_conformance.public.gradients import gradients_of
from kq_conformance.subject import ContractBreachError, Outputs

__all__ = ["RoutedInt8", "outlier_mask"]


class RoutedInt8:
    """A part of `kq_conformance.public.routed.RoutedOperations`."""

    def _new_call(self) -> Call:
        raise NotImplementedError

    def int8_vectorwise_quant(self, x: Stored, *, threshold: float) -> Outputs:
        """See `Subject.int8_vectorwise_quant`."""
        call, (rows, cols) = self._new_call(), x.bits.shape
        A = call.take_routed("A", x)
        codes, absmax, columns = call.run(kq.int8_vectorwise_quant, A, threshold)
        return (
            call.result("codes", codes, (rows, cols), "int8")
            | call.result("absmax", absmax, (rows,), "float32")
            | outlier_mask(columns, cols, threshold)
        )

    def int8_vectorwise_dequant(self, codes: Stored, absmax: Stored, dtype: str) -> Outputs:
        """See `Subject.int8_vectorwise_dequant`; the route is that of the codes."""
        call = self._new_call()
        routed, scales = call.take_routed("codes", codes), call.take_batch("absmax", absmax)
        out = call.run(kq.int8_vectorwise_dequant, routed, scales, getattr(torch, dtype))
        return call.result("out", out, codes.bits.shape, dtype)

    def int8_linear_matmul(self, a: Stored, b: Stored) -> Outputs:
        """See `Subject.int8_linear_matmul`; the route is that of a."""
        call, shape = self._new_call(), (a.bits.shape[0], b.bits.shape[0])
        out = call.run(kq.int8_linear_matmul, call.take_routed("A", a), call.take("B", b))
        return call.result("out", out, shape, "int32")

    def int8_mm_dequant(
        self,
        a: Stored,
        row_absmax: Stored,
        col_absmax: Stored,
        bias: Stored | None,
        dtype: str,
    ) -> Outputs:
        """See `Subject.int8_mm_dequant`; the route is that of a."""
        call = self._new_call()
        out = call.run(
            kq.int8_mm_dequant,
            call.take_routed("A", a),
            call.take_batch("row_absmax", row_absmax),
            call.take("col_absmax", col_absmax),
            None if bias is None else call.take("bias", bias),
            dtype=getattr(torch, dtype),
        )
        return call.result("out", out, a.bits.shape, dtype)

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
        call, shape = self._new_call(), (x.bits.shape[0], weight.bits.shape[0])
        out = call.run(
            kq.int8_linear,
            call.take_routed("x", x),
            call.take("weight", weight),
            call.take("absmax", absmax),
            None if bias is None else call.take("bias", bias),
            threshold,
        )
        return call.result("out", out, shape, x.dtype)

    def int8_linear_backward(self, grad: Stored, weight: Stored, absmax: Stored) -> Outputs:
        """See `Subject.int8_linear_backward`: the gradient of x by autograd."""
        call, k = self._new_call(), weight.bits.shape[1]
        upstream = call.take_routed("grad", grad)
        x = upstream.new_zeros(*upstream.shape[:-1], k).requires_grad_()
        codes, scales = call.take("weight", weight), call.take("absmax", absmax)
        # The product is not what is asked here, and may be what the backend does not have.
        with kq.use_backend("torch"), torch.enable_grad():
            y = kq.int8_linear(x, codes, scales)
        (out,) = call.run(gradients_of, y, [x], upstream)
        return call.result("out", out, (grad.bits.shape[0], k), grad.dtype)


def outlier_mask(columns: Tensor | None, cols: int, threshold: float) -> Outputs:
    """The outlier columns as a mask.

    Raises:
        ContractBreachError: if they are no ascending indices, or there are some without threshold.
    """
    if not threshold:
        if columns is not None:
            raise ContractBreachError("without a threshold the outlier columns must be None")
        return {}
    if columns is None or columns.dtype is not torch.int64 or columns.ndim != 1:
        raise ContractBreachError(f"the outlier columns must be int64 [J], got {columns!r}")
    found = columns.numpy(force=True)
    if (np.diff(found) <= 0).any() or ((found < 0) | (found >= cols)).any():
        raise ContractBreachError(f"the outlier columns must be ascending indices, got {found}")
    mask = np.zeros(cols, dtype=bool)
    mask[found] = True
    return {"outliers": stored_integers(mask, "bool")}
