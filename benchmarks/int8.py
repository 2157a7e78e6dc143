"""The linear layer of LLM.int8(), as work."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import kq_functional as kq
from benchmarks import checks
from benchmarks.data import dtype_name, gaussian, nbytes
from benchmarks.harness import Verdict
from benchmarks.plan import Plan
from benchmarks.work import WEIGHT_SCALE, ForwardBackward

THRESHOLD = 6.0
OUTLIERS = 0.001  # share of the columns, as in the large models of the paper


@dataclass(frozen=True)
class Int8:
    """y = x Wᵀ with W in int8, a scale for each row, and x quantized in the call.

    Attributes:
        x: [M, K], float32 or bfloat16.
        codes: int8 [N, K].
        absmax: float32 [N], their scales.
        threshold: magnitude of outliers, or 0. Columns of x have them in every row or in none, so
            that some rows can be judged without the others.
    """

    x: Tensor
    codes: Tensor
    absmax: Tensor
    threshold: float

    @classmethod
    def make(cls, M: int, N: int, K: int, dtype: torch.dtype, threshold: float, plan: Plan) -> Int8:
        """Random operands; with a threshold, one column of x in a thousand holds outliers."""
        weight = gaussian(plan.size(N), plan.size(K), scale=WEIGHT_SCALE)
        x = gaussian(M, plan.size(K))
        if threshold:
            x.clamp_(-threshold / 2, threshold / 2)
            count = max(round(OUTLIERS * x.shape[1]), 1)
            columns = torch.linspace(0, x.shape[1] - 1, count + 2).long()[1:-1]
            x[:, columns] += threshold * x[:, columns].sign()
        codes, absmax, _ = kq.int8_vectorwise_quant(weight)
        return cls(x.to(dtype), codes, absmax, threshold)

    def copy(self) -> Int8:
        """The same weight in other memory; x, which is small and was just computed, is shared."""
        return replace(self, codes=self.codes.clone(), absmax=self.absmax.clone())

    def decoded(self) -> Tensor:
        """W in float32, [N, K]."""
        weight: Tensor = kq.int8_vectorwise_dequant(self.codes, self.absmax)
        return weight

    def judge(self, x: Tensor, y: Tensor) -> Verdict:
        """Whether y is x Wᵀ with x as it is, within the bounds.

        Args:
            x: as the contender reads it.
            y: its result.
        """
        return checks.linear_decoded_int8(x, self.codes, self.absmax, y)

    def judge_quantized(self, x: Tensor, y: Tensor) -> Verdict:
        """Whether y is the product of the codes of x and W, within the bounds.

        Args:
            x: as the contender reads it.
            y: its result.
        """
        return checks.linear_int8(x, self.codes, self.absmax, self.threshold, y)

    def kept(self) -> kq.KeptColumns:
        """What rounding might have taken from the columns of the outliers."""
        columns = (self.x.abs() >= self.threshold).any(0).nonzero().flatten()
        halves = self.absmax[:, None] / 254
        lost = halves * gaussian(len(halves), len(columns)).clamp(-1, 1)
        return kq.KeptColumns(columns, lost.bfloat16())

    @property
    def traffic(self) -> int:
        """Bytes of the quantized weight."""
        return nbytes(self.codes, self.absmax)

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each product."""
        return 2 * len(self.x) * self.codes.numel()

    @property
    def series(self) -> str:
        """What works that differ in M alone have in common."""
        N, K = self.codes.shape
        outliers = ", outliers" if self.threshold else ""
        return f"int8, {N} x {K}, {dtype_name(self.x.dtype)}{outliers}"

    def __str__(self) -> str:
        return f"M = {len(self.x)}, {self.series.removeprefix('int8, ')}"


@dataclass(frozen=True)
class Int8Training(ForwardBackward[Int8]):
    """Forward and backward of a frozen layer in int8, without outliers."""

    @classmethod
    def make(cls, M: int, N: int, K: int, dtype: torch.dtype, plan: Plan) -> Int8Training:
        """Random operands."""
        linear = Int8.make(M, N, K, dtype, 0.0, plan)
        return cls(linear, gaussian(M, len(linear.codes), dtype=dtype))

    def judge(self, x: Tensor, y: Tensor, grad: Tensor, grad_x: Tensor) -> Verdict:
        """Both products within the bounds, the first with x as it is.

        Args:
            x: as the contender reads it.
            y: its result.
            grad: the gradient of y, as it reads it.
            grad_x: the gradient of x.
        """
        return checks.all_of([self.linear.judge(x, y), self._gradient(grad, grad_x)])

    def judge_quantized(self, x: Tensor, y: Tensor, grad: Tensor, grad_x: Tensor) -> Verdict:
        """As `judge`, but the first is the product of the codes of x and W."""
        return checks.all_of([self.linear.judge_quantized(x, y), self._gradient(grad, grad_x)])

    def _gradient(self, grad: Tensor, grad_x: Tensor) -> Verdict:
        return checks.int8_gradient(grad, self.linear.codes, self.linear.absmax, grad_x)
