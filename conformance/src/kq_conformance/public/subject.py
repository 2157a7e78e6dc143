"""A backend behind the public functions: the operations, and what only those functions have."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

import kq_functional as kq
from kq_conformance.floats import Stored
from kq_conformance.public.checks import CHECKS
from kq_conformance.public.gradients import gradients_of
from kq_conformance.public.routed import RoutedOperations
from kq_conformance.public.routed_int8 import outlier_mask
from kq_conformance.public.samples import Sample
from kq_conformance.public.states import check_state, state_4bit
from kq_conformance.reference import NESTED_BLOCKSIZE, count_blocks
from kq_conformance.subject import (
    ContractBreachError,
    Outputs,
    Placement,
    Route,
    RouteMissingError,
    StoredScales,
)

__all__ = ["PublicSubject"]


def _load(name: str) -> None:
    """Let kq-functional load the backend.

    Raises:
        ContractBreachError: if it does not.
    """
    try:
        with warnings.catch_warnings(action="ignore"), kq.use_backend(name):
            pass
    except (ImportError, ValueError) as error:
        raise ContractBreachError(f"kq-functional does not load the backend: {error}") from error


class PublicSubject(RoutedOperations):
    """Runs a backend through the public functions; implements `kq_conformance.subject.Subject`.

    Args:
        backend_name: what `kq_functional.use_backend` takes.
        device: torch device type of all tensors.
        route: how the tensors reach the functions.

    Raises:
        ContractBreachError: if kq-functional cannot load the backend.
    """

    def __init__(self, backend_name: str, device: str, route: Route) -> None:
        _load(backend_name)
        super().__init__(backend_name, device, route)

    def compress(self, x: Stored, *, quant_type: str, blocksize: int) -> Outputs:
        """Quantize with `compress_statistics`, and decode.

        Args:
            x: [R, C].
            quant_type: "nf4" or "fp4".
            blocksize: elements that share a scale.

        Returns:
            "packed", "absmax" (uint8 [R, blocks]), "nested_absmax", "nested_code", "offset", "out".

        Raises:
            RouteMissingError: if the backend does not declare all operations that this takes.
        """
        self._needs("quantize_blockwise", "float32", blocksize=NESTED_BLOCKSIZE)
        self._needs("dequantize_4bit", x.dtype, quant_type=quant_type, blocksize=blocksize)
        call, (rows, cols) = self._new_call(), x.bits.shape
        A, blocks = call.take_routed("A", x), count_blocks(cols, blocksize)
        packed, state = call.run(
            kq.quantize_4bit,
            A,
            blocksize=blocksize,
            compress_statistics=True,
            quant_type=quant_type,
        )
        check_state(state, A, quant_type, blocksize, nested=True)
        out = call.run(kq.dequantize_4bit, packed, state)
        groups = (count_blocks(rows * blocks, NESTED_BLOCKSIZE),)
        return (
            call.result("packed", packed, (rows, -(-cols // 2)), "uint8")
            | call.result("absmax", state.absmax, (rows, blocks), "uint8")
            | call.result("nested_absmax", state.state2.absmax, groups, "float32")
            | call.result("nested_code", state.state2.code, (256,), "float32")
            | call.result("offset", state.offset, (), "float32")
            | call.result("out", out, (rows, cols), x.dtype)
        )

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
        """The product of a batch of one-row matrices, and its gradients by autograd.

        Args:
            x: [M, K].
            packed: [N, ceil(K/2)].
            scales: of the weight.
            bias: [N].
            grad: [M, N], the gradient of the product.
            quant_type: "nf4" or "fp4".
            blocksize: elements that share a scale.

        Returns:
            "out" [M, N], "grad_x" [M, K], "grad_bias" [N].

        Raises:
            RouteMissingError: if the backend does not declare both operations that this takes.
        """
        for op in ("linear_4bit", "linear_4bit_backward"):
            self._needs(op, x.dtype, quant_type=quant_type, blocksize=blocksize)
        call, (m, k), n = self._new_call(), x.bits.shape, packed.bits.shape[0]
        leaf = call.take("x", x)[:, None].requires_grad_()
        added = call.take("bias", bias).requires_grad_()
        upstream = call.take("grad", grad)[:, None]
        codes = call.take("packed", packed)
        state = state_4bit(call, scales, (n, k), x.dtype, quant_type, blocksize)
        with torch.enable_grad():
            y = call.run(kq.linear_4bit, leaf, codes, state, added)
        grad_x, grad_bias = call.run(gradients_of, y, [leaf, added], upstream)
        return (
            call.result("out", y.detach().flatten(0, 1), (m, n), x.dtype)
            | call.result("grad_x", grad_x.flatten(0, 1), (m, k), x.dtype)
            | call.result("grad_bias", grad_bias, (n,), x.dtype)
        )

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
        """The products of E experts, and their gradients by autograd.

        Args:
            x: [T, K].
            packed: [E * N, ceil(K/2)].
            scales: of the weights.
            bias: [E, N].
            counts: rows of each expert.
            grad: [T, N], the gradient of the products.
            quant_type: "nf4" or "fp4".
            blocksize: elements that share a scale.

        Returns:
            "out" [T, N], "grad_x" [T, K], "grad_bias" [E, N].

        Raises:
            RouteMissingError: if the backend does not declare both operations that this takes.
        """
        for op in ("linear_4bit_grouped", "linear_4bit_grouped_backward"):
            self._needs(op, x.dtype, quant_type=quant_type, blocksize=blocksize)
        call, (rows, k), (experts, n) = self._new_call(), x.bits.shape, bias.bits.shape
        leaf, added = (
            call.take(name, each).requires_grad_() for name, each in (("x", x), ("bias", bias))
        )
        codes, upstream = call.take("packed", packed), call.take("grad", grad)
        state = state_4bit(call, scales, (experts, n, k), x.dtype, quant_type, blocksize)
        with torch.enable_grad():
            y = call.run(kq.linear_4bit_grouped, leaf, codes, state, list(counts), added)
        grad_x, grad_bias = call.run(gradients_of, y, [leaf, added], upstream)
        return (
            call.result("out", y.detach(), (rows, n), x.dtype)
            | call.result("grad_x", grad_x, (rows, k), x.dtype)
            | call.result("grad_bias", grad_bias, (experts, n), x.dtype)
        )

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
        """The product of a batch of one-row matrices by int8 codes, and its gradients by autograd.

        Args:
            x: [M, K].
            weight: int8 [N, K].
            absmax: [N].
            bias: [N].
            grad: [M, N], the gradient of the product.
            threshold: of outliers.

        Returns:
            "out" [M, N], "grad_x" [M, K], "grad_bias" [N].

        Raises:
            RouteMissingError: if the backend does not declare both operations that this takes.
        """
        for op in ("int8_linear", "int8_linear_backward"):
            self._needs(op, x.dtype)
        call, (m, k), n = self._new_call(), x.bits.shape, weight.bits.shape[0]
        leaf = call.take("x", x)[:, None].requires_grad_()
        added, upstream = call.take("bias", bias).requires_grad_(), call.take("grad", grad)
        codes, scales = call.take("weight", weight), call.take("absmax", absmax)
        with torch.enable_grad():
            y = call.run(kq.int8_linear, leaf, codes, scales, added, threshold)
        grad_x, grad_bias = call.run(gradients_of, y, [leaf, added], upstream[:, None])
        return (
            call.result("out", y.detach().flatten(0, 1), (m, n), x.dtype)
            | call.result("grad_x", grad_x.flatten(0, 1), (m, k), x.dtype)
            | call.result("grad_bias", grad_bias, (n,), x.dtype)
        )

    def int8_double_quant(self, x: Stored, *, threshold: float) -> Outputs:
        """Quantize rows and columns.

        Args:
            x: [R, C].
            threshold: of outliers.

        Returns:
            "codes" [R, C] and "absmax" [R] by rows, "col_codes" [R, C] and "col_absmax" [C] by
            columns, and "outliers" [C] where the threshold is not 0.
        """
        call, (rows, cols) = self._new_call(), x.bits.shape
        found = call.run(kq.int8_double_quant, call.take_routed("A", x), threshold)
        codes, col_codes, absmax, col_absmax, columns = found
        return (
            call.result("codes", codes, (rows, cols), "int8")
            | call.result("absmax", absmax, (rows,), "float32")
            | call.result("col_codes", col_codes, (rows, cols), "int8")
            | call.result("col_absmax", col_absmax, (cols,), "float32")
            | outlier_mask(columns, cols, threshold)
        )

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
        """Ask what has no results to compare with a reference; see `kq_conformance.public.checks`.

        Args:
            name: a key of `CHECKS`, or "errors" with the name of an argument behind a slash.
            op: the operation.
            dtype: of the unquantized tensor.
            quant_type: "nf4" or "fp4", or None where it does not apply.
            blocksize: elements that share a scale, or None where it does not apply.
            rule: update rule of an optimizer, or None.
            rounding: of the parameters that an optimizer steps, or None.

        Raises:
            ContractBreachError: saying what is wrong.
        """
        kind, _, argument = name.partition("/")
        sample = Sample(op, dtype, quant_type, blocksize, self._device)
        if rule is not None and rounding is not None:
            sample = replace(sample, rule=rule, rounding=rounding)
        with kq.use_backend(self._backend_name):
            CHECKS[kind](sample, argument)

    def _needs(self, op: str, dtype: str, **options: Any) -> None:
        with kq.use_backend(self._backend_name):
            found = kq.explain(op, device=self._device, dtype=getattr(torch, dtype), **options)
        if found.chosen is None:
            raise RouteMissingError(f"this takes {found.query}, which the backend does not declare")

    def threads(self, number: int) -> AbstractContextManager[None]:
        """The number of threads is set where `public` was called."""
        raise NotImplementedError

    def placed(self, placement: Placement) -> AbstractContextManager[None]:
        """Tensors of public functions lie where torch puts them."""
        raise NotImplementedError

    def public(self, route: Route) -> "PublicSubject":
        """The same backend by another route."""
        return PublicSubject(self._backend_name, self._device, route)
