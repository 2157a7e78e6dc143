"""The contract between the registered ops and the backends that compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

OPS = {
    "quantize_4bit": "A",
    "dequantize_4bit": "dtype",
    "quantize_blockwise": "A",
    "dequantize_blockwise": "dtype",
    "linear_4bit": "x",
    "linear_4bit_backward": "grad",
    "linear_4bit_grouped": "x",
    "linear_4bit_grouped_backward": "grad",
    "int8_vectorwise_quant": "A",
    "int8_vectorwise_dequant": "dtype",
    "int8_linear_matmul": "A",
    "int8_mm_dequant": "dtype",
    "int8_linear": "x",
    "int8_linear_backward": "grad",
    "optimizer_step_8bit": "params",
    "optimizer_step_32bit": "params",
}
"""Every op, with the argument whose dtype selects the computation."""


class BackendNotInstalledError(ImportError):
    """A backend's optional package is not installed: a normal install, not worth a warning."""


class Scales(NamedTuple):
    """The scales of a quantized tensor: plain float32 absmax, or double quantized.

    When `nested_absmax` is given, `absmax` holds uint8 codes, and block i (counted over all
    blocks in row-major order) has the scale
    nested_code[absmax[i]] × nested_absmax[i // 256] + offset,
    the product rounded to float32 before the addition.
    """

    absmax: Tensor
    """float32, or uint8 if nested; [R, blocks in a row]."""
    nested_absmax: Tensor | None = None
    """float32 [ceil(number of blocks / 256)]."""
    nested_code: Tensor | None = None
    """float32 [256]."""
    offset: Tensor | None = None
    """float32, one element."""

    def with_floats(self) -> Scales:
        """View int32 tensors, the bits of float32 scales as modules store them, as float32."""
        return Scales(
            *(
                tensor.view(torch.float32)
                if tensor is not None and tensor.dtype == torch.int32
                else tensor
                for tensor in self
            )  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Capability:
    """One op that a backend computes, and for which arguments.

    Any object with these attributes will do, so that a backend need not import this package.

    Attributes:
        op: A name from `OPS`.
        dtypes: Names such as "float32": the dtype of the unquantized tensor (for the optimizer
            steps, of the parameters).
        devices: torch device types; None means any.
        quant_types: 4-bit types; empty where it does not apply.
        blocksizes: Block sizes; None means any of at least 1, or not applicable.
        rules: Update rules of the optimizer steps; empty where it does not apply.
        roundings: How the optimizer steps store parameters. An object that has no such attribute
            declares the default.
    """

    op: str
    dtypes: frozenset[str]
    devices: frozenset[str] | None = None
    quant_types: frozenset[str] = frozenset()
    blocksizes: frozenset[int] | None = None
    rules: frozenset[str] = frozenset()
    roundings: frozenset[str] = frozenset({"nearest"})


def roundings(capability: Any) -> frozenset[str]:
    """Return what a capability, of this class or any other, declares as `roundings`."""
    declared: frozenset[str] = getattr(capability, "roundings", Capability.roundings)
    return declared


class Backend:
    """The contract of backends, and a base class: override the ops that `capabilities` declares.

    A backend need not derive from this class: what counts are the attributes, `describe`, and a
    method for each op that is declared.

    Tensors: all are on one device and allocated by the caller; a backend writes into the outputs
    and changes nothing else. R, C are the matrix view of `kq_functional.formats`; nb is
    ceil(C / blocksize). Sizes may be zero. The first input of a matrix op (`A` of the quantizing
    ops and of products, `x` of the linear layers, `grad` of their gradients) is contiguous, or its
    rows lie apart: stride(1) == 1 and stride(0) >= C. What is between its rows belongs to others
    and is not to be relied on. Every other tensor is contiguous.

    Arguments: what is declared must work. What is not declared (a dtype, device, quant_type, block
    size, rule or rounding) is refused with NotImplementedError, TypeError or ValueError before
    anything is written. The ops ask for nothing that is not declared; whoever calls a backend
    directly may.
    """

    name: str
    version: str
    capabilities: tuple[Capability, ...]

    def describe(self) -> dict[str, str]:
        """Return, as text, what a report needs to know: versions, instruction set, build."""
        return {"version": self.version}

    def quantize_4bit(
        self, A: Tensor, packed: Tensor, absmax: Tensor, *, quant_type: str, blocksize: int
    ) -> None:
        """Quantize A [R, C] into packed uint8 [R, ceil(C/2)] and absmax float32 [R, nb]."""
        raise NotImplementedError

    def dequantize_4bit(
        self, packed: Tensor, scales: Scales, out: Tensor, *, quant_type: str, blocksize: int
    ) -> None:
        """Decode packed [R, ceil(C/2)] into out [R, C]."""
        raise NotImplementedError

    def quantize_blockwise(
        self, A: Tensor, code: Tensor, codes: Tensor, absmax: Tensor, *, blocksize: int
    ) -> None:
        """Quantize A [R, C] with the sorted float32 [256] `code` into codes and absmax [R, nb]."""
        raise NotImplementedError

    def dequantize_blockwise(
        self, codes: Tensor, code: Tensor, absmax: Tensor, out: Tensor, *, blocksize: int
    ) -> None:
        """Decode codes uint8 [R, C] into out [R, C]."""
        raise NotImplementedError

    def linear_4bit(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Scales,
        bias: Tensor | None,
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Compute out [M, N] = x [M, K] Wᵀ + bias [N], with W [N, K] in row layout."""
        raise NotImplementedError

    def linear_4bit_backward(
        self,
        grad: Tensor,
        packed: Tensor,
        scales: Scales,
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Compute out [M, K] = grad [M, N] W, with W [N, K] in row layout."""
        raise NotImplementedError

    def linear_4bit_unchecked(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Scales,
        bias: Tensor | None,
        out: Tensor,
        *,
        shape: Sequence[int],
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Compute `linear_4bit`, to the same bits, from tensors that the op has not checked.

        Optional: a short way for products so small that the checks of the op take longer. It is
        asked for only where `linear_4bit` is declared. x [..., K] and out [..., N] are on one
        device, of one dtype, contiguous, not empty, and fit `shape`, (N, K); bias has one
        dimension. All else is as the caller of the op gave it: the backend must make sure of
        device, dtype, size and contiguity of packed, scales and bias. Scales that are int32 are
        the bits of float32. What it refuses as above goes through the op, which makes it right or
        raises the error that its caller sees.

        A class that overrides `linear_4bit` of another one has to override this, too.
        """
        raise NotImplementedError

    def linear_4bit_backward_unchecked(
        self,
        grad: Tensor,
        packed: Tensor,
        scales: Scales,
        out: Tensor,
        *,
        shape: Sequence[int],
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Compute `linear_4bit_backward` likewise, with grad [..., N] and out [..., K]."""
        raise NotImplementedError

    def linear_4bit_grouped(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Scales,
        bias: Tensor | None,
        counts: Sequence[int],
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Compute `linear_4bit` with E weights: the first counts[0] rows of x by the first of them.

        x [T, K] and out [T, N] are sorted by weight; counts, E numbers >= 0, add up to T. The
        weights are one matrix W [E * N, K] in row layout, so that the rows e * N to (e + 1) * N are
        weight e; blocks of nested scales are counted over all of it. bias is [E, N].
        """
        raise NotImplementedError

    def linear_4bit_grouped_backward(
        self,
        grad: Tensor,
        packed: Tensor,
        scales: Scales,
        counts: Sequence[int],
        out: Tensor,
        *,
        quant_type: str,
        blocksize: int,
    ) -> None:
        """Compute out [T, K], `linear_4bit_backward` of grad [T, N] with the weight of each row."""
        raise NotImplementedError

    def int8_vectorwise_quant(
        self,
        A: Tensor,
        codes: Tensor,
        absmax: Tensor,
        outliers: Tensor | None,
        *,
        threshold: float,
    ) -> None:
        """Quantize the rows of A [R, C] into codes int8 [R, C] and absmax float32 [R].

        absmax is the largest magnitude of the row, and a code the integer nearest to
        127 × A / absmax. Where `outliers`, bool [C], is given, `threshold` is positive:
        outliers[j] becomes whether a magnitude in column j is at least `threshold`; such elements
        do not count for absmax, and all codes of such columns are 0. A row with NaN has absmax
        NaN, one with Inf (and no NaN) that counts has Inf; codes of both are 0, as where absmax
        is 0.
        """
        raise NotImplementedError

    def int8_vectorwise_dequant(self, codes: Tensor, absmax: Tensor, out: Tensor) -> None:
        """Decode codes int8 [R, C]: out [R, C] = codes × absmax / 127."""
        raise NotImplementedError

    def int8_linear_matmul(self, A: Tensor, B: Tensor, out: Tensor) -> None:
        """Compute out int32 [M, N] = A [M, K] Bᵀ of int8 A and B [N, K], exactly.

        A K above 2^17, for which sums need not fit, is refused, here and by `int8_linear`.
        """
        raise NotImplementedError

    def int8_mm_dequant(
        self,
        A: Tensor,
        row_absmax: Tensor,
        col_absmax: Tensor,
        bias: Tensor | None,
        out: Tensor,
    ) -> None:
        """Compute out [M, N] = A × row_absmax [M, 1] × col_absmax [N] / 127² + bias [N], A int32.

        Bias has the dtype of out. All in float32, rounded once to the dtype of out.
        """
        raise NotImplementedError

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
        """Compute out [M, N] = x [M, K] Wᵀ + bias [N], W [N, K] with codes `weight` and absmax [N].

        x is quantized as `int8_vectorwise_quant` does, the product of codes is exact, and is
        scaled as in `int8_mm_dequant`. With a threshold above 0, the outlier columns of x are
        multiplied with those of the decoded weight and added, in float32, before the only
        rounding to the dtype of out.
        """
        raise NotImplementedError

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
        """Compute `int8_linear` likewise, as `linear_4bit_unchecked` computes `linear_4bit`.

        Optional. x [..., K] and out [..., N] are as there; weight has the shape (N, K), absmax and
        bias have one dimension, and threshold is finite and not negative. K may be more than 2^17.
        """
        raise NotImplementedError

    def int8_linear_backward(
        self, grad: Tensor, weight: Tensor, absmax: Tensor, out: Tensor
    ) -> None:
        """Compute out [M, K] = grad [M, N] W, with W [N, K] as in `int8_linear`."""
        raise NotImplementedError

    checks_steps = False
    """Whether the optimizer steps look at what they are given themselves.

    Then `TypeError`, `ValueError` or `RuntimeError` from them means that nothing was changed, and
    they raise one for lists of wrong lengths; tensors that are not contiguous, not on the device
    or of another dtype or number of elements than wanted; a code map that is no codebook; and a
    step number below 1. Calls in plain eager mode then come
    without the checks of the op, which for hundreds of small parameters take long; what is refused
    goes through the op, which makes it right or raises the error that its caller sees.
    """

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        codes: Sequence[Tensor],
        absmax: Sequence[Tensor],
        code_maps: Sequence[Tensor],
        steps: Sequence[int],
        *,
        lr: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
        grad_scale: float,
        rounding: str,
        corrections: Sequence[Tensor],
        seeds: Sequence[int],
        **hyper: float,
    ) -> None:
        """Step n parameters of one dtype; `codes`, `absmax`: state 1 of all, then state 2, ...

        The arguments are those of `kq_functional.optimizer_step_8bit`, all given; `corrections` and
        `seeds` are empty unless `rounding` asks for them.
        """
        raise NotImplementedError

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[Tensor],
        steps: Sequence[int],
        *,
        lr: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
        grad_scale: float,
        rounding: str,
        corrections: Sequence[Tensor],
        seeds: Sequence[int],
        **hyper: float,
    ) -> None:
        """Step likewise with `states`: float32, state 1 of all, then state 2, ..."""
        raise NotImplementedError
