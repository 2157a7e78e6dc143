"""bitsandbytes, given the same codes and scales as kq."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from ctypes import c_longlong
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks import checks, optimizing, training
from benchmarks.data import rotate
from benchmarks.grouped import Grouped
from benchmarks.harness import Contender, Verdict
from benchmarks.int8 import Int8, Int8Training
from benchmarks.plan import Plan
from benchmarks.work import Coding, Linear, Optimizing, Training

# Any, because it is typed only in part, and not installed where the types are checked.
bitsandbytes: Any = import_module("bitsandbytes")
functional: Any = bitsandbytes.functional

FAMILY = "bitsandbytes"
_SUFFIX = {torch.float32: "fp32", torch.bfloat16: "bf16"}  # of its C kernels' names


def _state(work: Linear | Coding) -> Any:
    """How the codes of `work` map to values, in the form of bitsandbytes."""
    state = work.state
    return functional.QuantState(
        absmax=state.absmax.reshape(-1),
        shape=state.shape,
        dtype=state.dtype,
        blocksize=state.blocksize,
        quant_type=state.quant_type,
        code=state.code,
    )


def linear(work: Linear, plan: Plan) -> list[Contender]:
    """`nn.Linear4bit` in eval mode and `matmul_4bit`; a table shows the better one."""
    if _crosses_rows(work):
        return []
    return [_linear_layer(work, plan), _linear_product(work, plan)]


def linear_training(work: Training, plan: Plan) -> list[Contender]:
    """Forward and backward of `nn.Linear4bit` in training mode."""
    layers = _layers(work.linear, plan, train=True)
    return [
        training.contender(
            work.linear.x,
            work.grad,
            FAMILY,
            layers,
            work.judge,
            work.traffic,
            path="Linear4bit",
        )
    ]


def linear_int8(work: Int8, plan: Plan) -> list[Contender]:
    """`nn.Linear8bitLt` in eval mode."""
    layers = _int8_layers(work, plan, train=False)

    def run() -> Any:
        return next(layers)(work.x)

    def check() -> Verdict:
        return work.judge_quantized(work.x, run())

    return [Contender(FAMILY, run, check, work.traffic)]


def linear_int8_training(work: Int8Training, plan: Plan) -> list[Contender]:
    """Forward and backward of `nn.Linear8bitLt` in training mode."""
    layers = _int8_layers(work.linear, plan, train=True)
    return [
        training.contender(
            work.linear.x, work.grad, FAMILY, layers, work.judge_quantized, work.traffic
        )
    ]


def _int8_layers(work: Int8, plan: Plan, *, train: bool) -> Iterator[Any]:
    N, K = work.codes.shape
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns in every call of bfloat16

    def make() -> Any:
        each = work.copy()
        layer = bitsandbytes.nn.Linear8bitLt(
            K, N, bias=False, has_fp16_weights=False, threshold=work.threshold, device="meta"
        )
        layer.weight = bitsandbytes.nn.Int8Params(
            each.codes, requires_grad=False, CB=each.codes, SCB=each.absmax
        )
        return layer.train(train)

    return rotate(make, work.traffic, plan.working_set)


def linear_grouped(work: Grouped, plan: Plan) -> list[Contender]:
    """It has no layer for a mixture of experts."""
    del work, plan
    return []


def _crosses_rows(work: Linear) -> bool:
    """Whether its blocks would: then the same codes and scales do not exist in its format."""
    return work.state.shape[1] % work.state.blocksize != 0


def _linear_layer(work: Linear, plan: Plan) -> Contender:
    layers = _layers(work, plan, train=False)

    def run() -> Any:
        return next(layers)(work.x)

    return _linear(work, "Linear4bit", run)


def _layers(work: Linear, plan: Plan, *, train: bool) -> Iterator[Any]:
    N, K = work.state.shape

    def make() -> Any:
        each = work.copy()
        layer = bitsandbytes.nn.Linear4bit(
            K, N, bias=False, compute_dtype=work.x.dtype, compress_statistics=False, device="meta"
        )
        layer.weight = bitsandbytes.nn.Params4bit(
            each.packed.view(-1, 1),
            quant_state=_state(each),
            blocksize=work.state.blocksize,
            quant_type="nf4",
            compress_statistics=False,
            bnb_quantized=True,
        )
        layer.train(train)
        layer(work.x[:1].detach())  # the first call may repack the weight
        return layer

    return rotate(make, work.traffic, plan.working_set)


def _linear_product(work: Linear, plan: Plan) -> Contender:
    def make() -> tuple[Tensor, Any]:
        each = work.copy()
        return each.packed.view(-1, 1), _state(each)

    weights = rotate(make, work.traffic, plan.working_set)

    def run() -> Any:
        packed, state = next(weights)
        return bitsandbytes.matmul_4bit(work.x, packed, state)

    return _linear(work, "matmul_4bit", run)


def _linear(work: Linear, path: str, run: Callable[[], Tensor]) -> Contender:
    def check() -> Verdict:
        return work.judge(work.x, run())

    return Contender(FAMILY, run, check, work.traffic, path=path)


def _coding(work: Coding, plan: Plan) -> Iterator[tuple[Coding, Tensor, Any]]:
    """Copies of the operands, with flat scales to write to and the state to decode with."""
    copies = work.copies(plan)

    def make() -> tuple[Coding, Tensor, Any]:
        each = next(copies)
        return each, each.state.absmax.reshape(-1), _state(each)

    return rotate(make, work.traffic, plan.working_set)


def quantize_4bit(work: Coding, plan: Plan) -> list[Contender]:
    """`functional.quantize_4bit`."""
    items = _coding(work, plan)
    options = {"blocksize": work.state.blocksize, "quant_type": "nf4"}

    def run() -> Any:
        each, absmax, _ = next(items)
        if work.reuse:
            codes = each.codes.view(-1, 1)
            return functional.quantize_4bit(each.source, absmax=absmax, out=codes, **options)
        return functional.quantize_4bit(each.source, **options)

    def check() -> Verdict:
        codes, state = run()
        return checks.quantized_4bit(work.source, codes, state.absmax, work.state.blocksize)

    return [Contender(FAMILY, run, check, work.traffic)]


def dequantize_4bit(work: Coding, plan: Plan) -> list[Contender]:
    """`functional.dequantize_4bit`; for a reused output, also the kernel behind it."""
    items = _coding(work, plan)
    blocksize = work.state.blocksize
    kernel = getattr(
        bitsandbytes.cextension.lib, f"cdequantize_blockwise_cpu_nf4_{_SUFFIX[work.source.dtype]}"
    )

    def fresh() -> Any:
        each, _, state = next(items)
        return functional.dequantize_4bit(each.codes.view(-1, 1), state)

    def reused() -> Tensor:
        each, absmax, _ = next(items)
        operands = (each.codes, absmax, each.source)
        kernel(
            *map(functional.get_ptr, operands), *map(c_longlong, (blocksize, *each.source.shape))
        )
        return each.source

    def judge(run: Callable[[], Tensor]) -> Verdict:
        return checks.dequantized_4bit(work.codes, work.state.absmax, run(), blocksize)

    return _decoders(work, fresh, reused, judge)


def quantize_blockwise(work: Coding, plan: Plan) -> list[Contender]:
    """`functional.quantize_blockwise`."""
    items = _coding(work, plan)
    code, blocksize = work.state.code, work.state.blocksize

    def run() -> Any:
        each, absmax, _ = next(items)
        if work.reuse:
            return functional.quantize_blockwise(each.source, code, absmax, each.codes, blocksize)
        return functional.quantize_blockwise(each.source, code, blocksize=blocksize)

    def check() -> Verdict:
        codes, state = run()
        return checks.quantized_blockwise(work.source, code, codes, state.absmax, blocksize)

    return [Contender(FAMILY, run, check, work.traffic)]


def dequantize_blockwise(work: Coding, plan: Plan) -> list[Contender]:
    """`functional.dequantize_blockwise`; for a reused output, also the kernel behind it."""
    items = _coding(work, plan)
    code, blocksize = work.state.code, work.state.blocksize
    kernel = getattr(
        bitsandbytes.cextension.lib, f"cdequantize_blockwise_cpu_{_SUFFIX[work.source.dtype]}"
    )

    def fresh() -> Any:
        each, _, state = next(items)
        return functional.dequantize_blockwise(each.codes, state)

    def reused() -> Tensor:
        each, absmax, _ = next(items)
        operands = (code, each.codes, absmax, each.source)
        kernel(
            *map(functional.get_ptr, operands), *map(c_longlong, (blocksize, each.codes.numel()))
        )
        return each.source

    def judge(run: Callable[[], Tensor]) -> Verdict:
        return checks.dequantized_blockwise(work.codes, code, work.state.absmax, run(), blocksize)

    return _decoders(work, fresh, reused, judge)


def _decoders(
    work: Coding,
    fresh: Callable[[], Tensor],
    reused: Callable[[], Tensor],
    judge: Callable[[Callable[[], Tensor]], Verdict],
) -> list[Contender]:
    """The public function, which on CPU always returns fresh memory, and the way around that."""
    ways = {"fresh output": fresh, "C kernel called directly": reused}
    if not work.reuse:
        del ways["C kernel called directly"]
    return [
        Contender(FAMILY, run, partial(judge, run), work.traffic, path=path)
        for path, run in ways.items()
    ]


def adamw(work: Optimizing, plan: Plan) -> list[Contender]:
    """`optim.AdamW8bit`."""
    del plan  # operands are larger than any cache
    return _optimizer(work, bitsandbytes.optim.AdamW8bit)


def adamw_32bit(work: Optimizing, plan: Plan) -> list[Contender]:
    """`optim.AdamW32bit`."""
    del plan  # operands are larger than any cache
    return _optimizer(work, bitsandbytes.optim.AdamW32bit)


def lion(work: Optimizing, plan: Plan) -> list[Contender]:
    """`optim.Lion8bit`."""
    del plan  # operands are larger than any cache
    return _optimizer(work, bitsandbytes.optim.Lion8bit)


def momentum(work: Optimizing, plan: Plan) -> list[Contender]:
    """`optim.SGD8bit`."""
    del plan  # operands are larger than any cache
    return _optimizer(work, bitsandbytes.optim.SGD8bit)


def _optimizer(work: Optimizing, optimizer: Callable[..., Any]) -> list[Contender]:
    params = work.parameters()
    made = optimizer(params, **work.options)
    return [optimizing.contender(work, FAMILY, made, params, _states)]


def _states(state: optimizing.State) -> checks.States:
    maps = [state[name] for name in ("qmap1", "qmap2") if name in state]
    return optimizing.coded_states(state, maps)
