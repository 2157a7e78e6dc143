"""Dense torch: what the work costs without quantization.

Nothing here quantizes. Beside quantizing and decoding stands the copy of a tensor of the same size,
a yardstick that is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import kq_functional as kq
from benchmarks import optimizing, training
from benchmarks.data import dtype_name, rotate
from benchmarks.grouped import Grouped
from benchmarks.harness import Contender, Verdict
from benchmarks.int8 import Int8, Int8Training
from benchmarks.plan import Plan
from benchmarks.work import Coding, Linear, Optimizing, Training

FAMILY = "torch"
DTYPES = (torch.float32, torch.bfloat16)


def linear(work: Linear | Int8, plan: Plan) -> list[Contender]:
    """`nn.Linear` with the decoded weight, in float32 and in bfloat16."""
    return [_linear(work, dtype, plan) for dtype in DTYPES]


linear_int8 = linear


def _linear(work: Linear | Int8, dtype: torch.dtype, plan: Plan) -> Contender:
    x = work.x.detach().to(dtype).requires_grad_(work.x.requires_grad)
    weight = work.decoded().to(dtype)
    layers = _layers(weight, plan)

    def run() -> Tensor:
        y: Tensor = next(layers)(x)
        return y

    def check() -> Verdict:
        return work.judge(x, run())

    return Contender(f"{FAMILY} {dtype_name(dtype)}", run, check, weight.nbytes)


def linear_training(work: Training | Int8Training, plan: Plan) -> list[Contender]:
    """Forward and backward of the same layers, their weights frozen."""
    return [_linear_training(work, dtype, plan) for dtype in DTYPES]


linear_int8_training = linear_training


def _linear_training(work: Training | Int8Training, dtype: torch.dtype, plan: Plan) -> Contender:
    weight = work.linear.decoded().to(dtype)
    return training.contender(
        work.linear.x.to(dtype),
        work.grad,
        f"{FAMILY} {dtype_name(dtype)}",
        _layers(weight, plan),
        work.judge,
        2 * weight.nbytes,
    )


def linear_grouped(work: Grouped, plan: Plan) -> list[Contender]:
    """`functional.linear` for each expert with its decoded weight."""
    return [_linear_grouped(work, dtype, plan) for dtype in DTYPES]


def _linear_grouped(work: Grouped, dtype: torch.dtype, plan: Plan) -> Contender:
    weight = kq.dequantize_4bit(work.packed, work.state).to(dtype)
    weights = rotate(weight.clone, weight.nbytes, plan.working_set)
    x = work.x.to(dtype)
    traffic = weight.nbytes * work.active // len(work.counts)

    def run() -> Tensor:
        parts = zip(x.split(work.counts), next(weights), strict=True)
        return torch.cat([nn.functional.linear(*part) for part in parts])

    return Contender(f"{FAMILY} {dtype_name(dtype)}", run, partial(work.judge, x, run), traffic)


def _layers(weight: Tensor, plan: Plan) -> Iterator[nn.Linear]:
    N, K = weight.shape

    def make() -> nn.Linear:
        layer = nn.Linear(K, N, bias=False, device="meta")
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        return layer

    return rotate(make, weight.nbytes, plan.working_set)


def copy(work: Coding, plan: Plan) -> list[Contender]:
    """A copy of the unquantized matrix, into fresh or reused memory."""
    copies = work.copies(plan)

    def run() -> Tensor:
        source = next(copies).source
        return next(copies).source.copy_(source) if work.reuse else source.clone()

    def check() -> Verdict:
        return Verdict(True, "a yardstick, not judged")

    return [Contender(f"{FAMILY} copy", run, check, 2 * work.source.nbytes)]


quantize_4bit = dequantize_4bit = quantize_blockwise = dequantize_blockwise = copy


def adamw(work: Optimizing, plan: Plan) -> list[Contender]:
    """`torch.optim.AdamW`, fused and as it comes."""
    del plan  # operands are larger than any cache
    return [
        _optimizer(work, "AdamW(fused=True)", torch.optim.AdamW, fused=True),
        _optimizer(work, "AdamW", torch.optim.AdamW),
    ]


adamw_32bit = adamw


def lion(work: Optimizing, plan: Plan) -> list[Contender]:
    """Torch has no Lion."""
    del work, plan
    return []


def momentum(work: Optimizing, plan: Plan) -> list[Contender]:
    """`torch.optim.SGD`, fused."""
    del plan  # operands are larger than any cache
    return [_optimizer(work, "SGD(fused=True)", torch.optim.SGD, fused=True)]


def _optimizer(
    work: Optimizing, name: str, optimizer: Callable[..., torch.optim.Optimizer], **options: bool
) -> Contender:
    params = work.parameters()
    made = optimizer(params, **work.options, **options)
    return optimizing.contender(work, f"{FAMILY} {name}", made, params, optimizing.dense_states)
