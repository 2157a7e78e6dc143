"""The int8 part of the native backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..formats import FLOAT_DTYPES, dtype_name
from ._native_arrays import array_argument, optional_argument, rows_argument
from .base import Backend, Capability


def int8_capabilities(devices: frozenset[str]) -> tuple[Capability, ...]:
    """Return what `NativeInt8` can do."""
    floats = frozenset(map(dtype_name, FLOAT_DTYPES))
    return (
        Capability("int8_vectorwise_quant", floats, devices),
        Capability("int8_vectorwise_dequant", floats, devices),
        Capability("int8_linear_matmul", frozenset({"int8"}), devices),
        Capability("int8_mm_dequant", floats, devices),
        Capability("int8_linear", floats, devices),
        Capability("int8_linear_backward", floats, devices),
    )


class NativeInt8(Backend):
    """Hands the operations on int8 codes to kq-kernels."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels

    def int8_vectorwise_quant(
        self,
        A: Tensor,
        codes: Tensor,
        absmax: Tensor,
        outliers: Tensor | None,
        *,
        threshold: float,
    ) -> None:
        """See `Backend.int8_vectorwise_quant`."""
        rows, cols = A.shape
        array, row_stride = rows_argument("A", A)
        self._kernels.int8_vectorwise_quant(
            array,
            array_argument(codes),
            array_argument(absmax),
            optional_argument(outliers),
            rows,
            cols,
            threshold,
            torch.get_num_threads(),
            row_stride,
        )

    def int8_vectorwise_dequant(self, codes: Tensor, absmax: Tensor, out: Tensor) -> None:
        """See `Backend.int8_vectorwise_dequant`."""
        rows, cols = out.shape
        self._kernels.int8_vectorwise_dequant(
            array_argument(codes),
            array_argument(absmax),
            array_argument(out),
            rows,
            cols,
            torch.get_num_threads(),
        )

    def int8_linear_matmul(self, A: Tensor, B: Tensor, out: Tensor) -> None:
        """See `Backend.int8_linear_matmul`."""
        array, row_stride = rows_argument("A", A)
        self._kernels.int8_linear_matmul(
            array,
            array_argument(B),
            array_argument(out),
            out.shape[0],
            out.shape[1],
            A.shape[1],
            torch.get_num_threads(),
            row_stride,
        )

    def int8_mm_dequant(
        self,
        A: Tensor,
        row_absmax: Tensor,
        col_absmax: Tensor,
        bias: Tensor | None,
        out: Tensor,
    ) -> None:
        """See `Backend.int8_mm_dequant`."""
        array, row_stride = rows_argument("A", A)
        self._kernels.int8_mm_dequant(
            array,
            array_argument(row_absmax),
            array_argument(col_absmax),
            optional_argument(bias),
            array_argument(out),
            out.shape[0],
            out.shape[1],
            torch.get_num_threads(),
            row_stride,
        )

    def int8_linear(
        self,
        x: Tensor,
        weight: Tensor,
        absmax: Tensor,
        bias: Tensor | None,
        out: Tensor,
        *,
        threshold: float,
    ) -> None:
        """See `Backend.int8_linear`."""
        array, row_stride = rows_argument("x", x)
        self._kernels.int8_linear(
            array,
            array_argument(weight),
            array_argument(absmax),
            optional_argument(bias),
            array_argument(out),
            out.shape[0],
            out.shape[1],
            x.shape[1],
            threshold,
            torch.get_num_threads(),
            row_stride,
        )

    def int8_linear_unchecked(
        self,
        x: Tensor,
        weight: Tensor,
        absmax: Tensor,
        bias: Tensor | None,
        out: Tensor,
        *,
        threshold: float,
    ) -> None:
        """See `Backend.int8_linear_unchecked`: the kernels look at the tensors themselves."""
        n, k = weight.shape
        self._kernels.int8_linear(
            x,
            weight,
            absmax,
            bias,
            array_argument(out),
            x.numel() // k,
            n,
            k,
            threshold,
            torch.get_num_threads(),
        )

    def int8_linear_backward(
        self, grad: Tensor, weight: Tensor, absmax: Tensor, out: Tensor
    ) -> None:
        """See `Backend.int8_linear_backward`."""
        array, row_stride = rows_argument("grad", grad)
        self._kernels.int8_linear_backward(
            array,
            array_argument(weight),
            array_argument(absmax),
            array_argument(out),
            out.shape[0],
            grad.shape[1],
            out.shape[1],
            torch.get_num_threads(),
            row_stride,
        )
