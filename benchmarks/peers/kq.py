"""kq: one contender for each instruction set of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

import kq_functional as kq
import kq_kernels
import kq_nn
import kq_optim
from benchmarks import checks, optimizing, training
from benchmarks.data import rotate
from benchmarks.grouped import Grouped
from benchmarks.harness import Contender, Verdict
from benchmarks.int8 import Int8, Int8Training
from benchmarks.plan import Plan
from benchmarks.work import Coding, Linear, Optimizing, Training

FAMILY = "kq"


def _each_isa(
    plan: Plan, run: Callable[[], object], check: Callable[[], Verdict], traffic: int
) -> list[Contender]:
    return [
        Contender(f"{FAMILY} {isa}", run, check, traffic, prepare=partial(kq_kernels.set_isa, isa))
        for isa in plan.isas
    ]


def linear(work: Linear, plan: Plan) -> list[Contender]:
    """`kq_nn.Linear4bit`."""
    layers = _layers(work, plan)

    def run() -> Tensor:
        y: Tensor = next(layers)(work.x)
        return y

    def check() -> Verdict:
        return work.judge(work.x, run())

    return _each_isa(plan, run, check, work.traffic)


def linear_training(work: Training, plan: Plan) -> list[Contender]:
    """Forward and backward of `kq_nn.Linear4bit`."""
    return _training(work, work.judge, _layers(work.linear, plan), plan)


def _training(
    work: Training | Int8Training,
    judge: training.Judge,
    layers: Iterator[training.Layer],
    plan: Plan,
) -> list[Contender]:
    return [
        training.contender(
            work.linear.x,
            work.grad,
            f"{FAMILY} {isa}",
            layers,
            judge,
            work.traffic,
            prepare=partial(kq_kernels.set_isa, isa),
        )
        for isa in plan.isas
    ]


def linear_int8(work: Int8, plan: Plan) -> list[Contender]:
    """`kq_nn.Linear8bitLt`; if the work has outliers, beside it what these cost.

    That is one that takes none for such, and one that keeps their columns of the weight.
    """
    contenders = _each_isa(plan, *_int8(work, plan), work.traffic)
    if work.threshold:
        best = plan.isas[0]
        plain = _int8(replace(work, threshold=0.0), plan)
        prepare = partial(kq_kernels.set_isa, best)
        for name, calls in ((f"threshold 0, {best}", plain), (f"kept, {best}", _kept(work, plan))):
            contenders.append(Contender(name, *calls, work.traffic, prepare=prepare))
    return contenders


def _kept(work: Int8, plan: Plan) -> tuple[Callable[[], Tensor], Callable[[], Verdict]]:
    copies, kept = rotate(work.copy, work.traffic, plan.working_set), work.kept()

    def multiply(kept: kq.KeptColumns | None) -> Tensor:
        each = next(copies)
        return kq.int8_linear(work.x, each.codes, each.absmax, None, work.threshold, kept)

    def check() -> Verdict:
        plain = multiply(None)
        added = checks.kept_columns(plain, work.x, kept, multiply(kept))
        return checks.all_of([work.judge_quantized(work.x, plain), added])

    return partial(multiply, kept), check


def _int8(work: Int8, plan: Plan) -> tuple[Callable[[], Tensor], Callable[[], Verdict]]:
    layers = _int8_layers(work, plan)

    def run() -> Tensor:
        y: Tensor = next(layers)(work.x)
        return y

    def check() -> Verdict:
        return work.judge_quantized(work.x, run())

    return run, check


def linear_int8_training(work: Int8Training, plan: Plan) -> list[Contender]:
    """Forward and backward of `kq_nn.Linear8bitLt`."""
    return _training(work, work.judge_quantized, _int8_layers(work.linear, plan), plan)


def _int8_layers(work: Int8, plan: Plan) -> Iterator[kq_nn.Linear8bitLt]:
    def make() -> kq_nn.Linear8bitLt:
        each = work.copy()
        layer = kq_nn.Linear8bitLt.from_parts(each.codes, each.absmax, threshold=work.threshold)
        return layer.eval()

    return rotate(make, work.traffic, plan.working_set)


def linear_grouped(work: Grouped, plan: Plan) -> list[Contender]:
    """`kq_functional.linear_4bit_grouped`, and beside it `linear_4bit` for each expert."""
    copies = work.copies(plan)
    loops = rotate(lambda: next(copies).experts(), work.traffic, plan.working_set)
    best = plan.isas[0]

    def run() -> Tensor:
        each = next(copies)
        return kq.linear_4bit_grouped(work.x, each.packed, each.state, work.counts)

    def loop() -> Tensor:
        parts = zip(work.x.split(work.counts), next(loops), strict=True)
        return torch.cat([kq.linear_4bit(rows, *weight) for rows, weight in parts])

    return [
        *_each_isa(plan, run, partial(work.judge, work.x, run), work.traffic),
        Contender(
            f"loop of linear_4bit, {best}",
            loop,
            partial(work.judge, work.x, loop),
            work.traffic,
            prepare=partial(kq_kernels.set_isa, best),
        ),
    ]


def _layers(work: Linear, plan: Plan) -> Iterator[kq_nn.Linear4bit]:
    N, K = work.state.shape
    layer = kq_nn.Linear4bit(
        K, N, bias=False, blocksize=work.state.blocksize, compress_statistics=False
    )
    layer.quantize_(kq.dequantize_4bit(work.packed, work.state)).eval()
    return rotate(lambda: deepcopy(layer), work.traffic, plan.working_set)


def quantize_4bit(work: Coding, plan: Plan) -> list[Contender]:
    """`kq_functional.quantize_4bit`."""
    copies = work.copies(plan)
    blocksize = work.state.blocksize

    def run() -> tuple[Tensor, kq.QuantState]:
        each = next(copies)
        if work.reuse:
            return kq.quantize_4bit(each.source, each.state.absmax, each.codes, blocksize)
        return kq.quantize_4bit(each.source, blocksize=blocksize)

    def check() -> Verdict:
        codes, state = run()
        return checks.quantized_4bit(work.source, codes, state.absmax, blocksize)

    return _each_isa(plan, run, check, work.traffic)


def dequantize_4bit(work: Coding, plan: Plan) -> list[Contender]:
    """`kq_functional.dequantize_4bit`."""
    copies = work.copies(plan)

    def run() -> Tensor:
        each = next(copies)
        return kq.dequantize_4bit(each.codes, each.state, out=each.source if work.reuse else None)

    def check() -> Verdict:
        return checks.dequantized_4bit(work.codes, work.state.absmax, run(), work.state.blocksize)

    return _each_isa(plan, run, check, work.traffic)


def quantize_blockwise(work: Coding, plan: Plan) -> list[Contender]:
    """`kq_functional.quantize_blockwise`."""
    copies = work.copies(plan)
    code, blocksize = work.state.code, work.state.blocksize

    def run() -> tuple[Tensor, kq.QuantState]:
        each = next(copies)
        if work.reuse:
            absmax = each.state.absmax
            return kq.quantize_blockwise(each.source, code, absmax, each.codes, blocksize)
        return kq.quantize_blockwise(each.source, code, blocksize=blocksize)

    def check() -> Verdict:
        codes, state = run()
        return checks.quantized_blockwise(work.source, code, codes, state.absmax, blocksize)

    return _each_isa(plan, run, check, work.traffic)


def dequantize_blockwise(work: Coding, plan: Plan) -> list[Contender]:
    """`kq_functional.dequantize_blockwise`."""
    copies = work.copies(plan)

    def run() -> Tensor:
        each = next(copies)
        out = each.source if work.reuse else None
        return kq.dequantize_blockwise(each.codes, each.state, out=out)

    def check() -> Verdict:
        state = work.state
        return checks.dequantized_blockwise(
            work.codes, state.code, state.absmax, run(), state.blocksize
        )

    return _each_isa(plan, run, check, work.traffic)


def adamw(work: Optimizing, plan: Plan) -> list[Contender]:
    """`kq_optim.AdamW8bit`."""
    return _optimizers(work, plan, kq_optim.AdamW8bit)


def adamw_32bit(work: Optimizing, plan: Plan) -> list[Contender]:
    """`kq_optim.AdamW32bit`."""
    return _optimizers(work, plan, kq_optim.AdamW32bit)


def lion(work: Optimizing, plan: Plan) -> list[Contender]:
    """`kq_optim.Lion8bit`."""
    return _optimizers(work, plan, kq_optim.Lion8bit)


def momentum(work: Optimizing, plan: Plan) -> list[Contender]:
    """`kq_optim.SGD8bit`."""
    return _optimizers(work, plan, kq_optim.SGD8bit)


def _optimizers(
    work: Optimizing, plan: Plan, optimizer: Callable[..., torch.optim.Optimizer]
) -> list[Contender]:
    maps = kq.create_dynamic_map(signed=True), kq.create_dynamic_map(signed=False)
    name = getattr(optimizer, "__name__", "")

    def contender(isa: str) -> Contender:
        params = work.parameters()
        return optimizing.contender(
            work,
            f"{FAMILY} {isa}",
            optimizer(params, **work.options),
            params,
            partial(optimizing.coded_states, maps=maps),
            path=name,
            prepare=partial(kq_kernels.set_isa, isa),
        )

    return [contender(isa) for isa in plan.isas]
