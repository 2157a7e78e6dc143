"""Cases of linear_4bit and linear_4bit_backward."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kq_conformance.bounds import Judgement, Product, Strictness, WeightForm, weight_forms
from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.weights import Weights, plain_scales, random_weights
from kq_conformance.floats import FORMATS, Stored, store, stored_bytes, values_of
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, codebook_4bit, pack, spread, unpack
from kq_conformance.subject import Outputs, Subject

__all__ = ["linear_cases"]

# (M, N, K): one row, few rows, more than a register tile, more than a cache tile; N and K off every
# vector width; K shorter than a block, exactly one, odd, and several blocks with a tail.
_SHAPES = (
    (1, 48, 130),
    (1, 5, 256),
    (2, 1, 31),
    (3, 7, 1),
    (5, 33, 257),
    (16, 48, 64),
    (17, 40, 192),
    (64, 17, 96),
    (130, 16, 130),
    (0, 16, 64),
    (3, 0, 64),
    (3, 4, 0),
)
_ROWS = (0, 1, 2, 3, 5, 16, 17, 64, 130)


@dataclass(frozen=True)
class Linear4bit:
    """One call of linear_4bit."""

    x: Stored
    weights: Weights
    bias: Stored | None

    def call(self, subject: Subject) -> Outputs:
        w = self.weights
        return subject.linear_4bit(
            self.x,
            stored_bytes(w.packed),
            w.scales,
            self.bias,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        forms = [
            WeightForm(form.name, form.value.T, form.radius.T)
            for form in _forms(self.weights, self.x.dtype, strictness)
        ]
        bias = None if self.bias is None else values_of(self.bias)
        product = Product(values_of(self.x), forms, bias, self.x.dtype)
        return [product.judge(values_of(outputs["out"]))]


@dataclass(frozen=True)
class Linear4bitBackward:
    """One call of linear_4bit_backward."""

    grad: Stored
    weights: Weights

    def call(self, subject: Subject) -> Outputs:
        w = self.weights
        return subject.linear_4bit_backward(
            self.grad,
            stored_bytes(w.packed),
            w.scales,
            w.cols,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        forms = _forms(self.weights, self.grad.dtype, strictness)
        product = Product(values_of(self.grad), forms, None, self.grad.dtype)
        return [product.judge(values_of(outputs["out"]))]


def _forms(weights: Weights, dtype: str, strictness: Strictness) -> list[WeightForm]:
    return weight_forms(weights.values, weights.enclosure(strictness), dtype)


def _input(draw: Draw, rows: int, cols: int, damaged: bool, dtype: str) -> Stored:
    """Rows of different size; `damaged` puts NaN and infinities in some of them."""
    values = draw.bell(rows, cols) * draw.magnitudes(-3, 3, rows, 1)
    if damaged:
        values[0, 0], values[1, cols - 1], values[2, cols // 2] = np.nan, np.inf, -np.inf
    return store(values, dtype)


def _weights(
    draw: Draw, shape: tuple[int, int], quant_type: str, blocksize: int, nested: bool, damaged: bool
) -> Weights:
    """Weights; `damaged` holds blocks that the quantizer made of NaN and of Inf: codes of zero."""
    weights = random_weights(draw, *shape, quant_type, blocksize, nested)
    if damaged:
        absmax = weights.absmax
        absmax[1, 0], absmax[2, -1] = np.nan, np.inf
        broken = ~np.isfinite(spread(absmax, weights.cols, blocksize))
        book = codebook_4bit(quant_type)
        codes = np.where(broken, book.zero, unpack(weights.packed, weights.cols))
        weights = replace(
            weights,
            packed=pack(codes.astype(np.uint8), book.zero),
            scales=plain_scales(absmax),
        )
    return weights


def _cases(quant_type: str, blocksize: int, dtype: str) -> Iterator[Case]:
    forward, backward = (
        Demand(op, dtype, quant_type, blocksize) for op in ("linear_4bit", "linear_4bit_backward")
    )

    def case(
        shape: tuple[int, int, int],
        profile: Profile,
        *,
        bias: bool = False,
        nested: bool = False,
        gradient: bool = False,
        damaged: bool = False,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        M, N, K = shape
        demand = backward if gradient else forward
        parts = [demand.op, quant_type, f"b{blocksize}", dtype, f"m{M}-n{N}-k{K}"]
        flags = {"bias": bias, "nested": nested, "nonfinite": damaged}
        parts += [name for name, on in flags.items() if on]
        parts += [mode.name.lower()] if mode is not Mode.VALUES else []

        def make(draw: Draw) -> Linear4bit | Linear4bitBackward:
            weights = _weights(draw, (N, K), quant_type, blocksize, nested, damaged)
            if gradient:
                return Linear4bitBackward(_input(draw, M, N, damaged, dtype), weights)
            x = _input(draw, M, K, damaged, dtype)
            return Linear4bit(x, weights, store(draw.bell(N), dtype) if bias else None)

        return Case("/".join(parts), profile, demand, make, mode)

    yield from _listed(case, blocksize)


def _listed(case: Callable[..., Case], blocksize: int) -> Iterator[Case]:
    if blocksize != 64:
        # Two blocks and a tail, and a row shorter than a block.
        for K in (min(2 * blocksize + 3, blocksize + 35), blocksize // 2 + 1):
            yield case((3, 6, K), Profile.CORE)
            yield case((3, 6, K), Profile.CORE, bias=True, nested=True)
            yield case((3, 6, K), Profile.CORE, gradient=True, nested=True)
        for M in _ROWS:
            yield case((M, 19, blocksize + 33), Profile.FULL, bias=True)
        return
    for index, shape in enumerate(_SHAPES):
        profile = Profile.QUICK if index in (0, 5) else Profile.CORE
        for nested in (False, True):
            for bias in (False, True):
                yield case(shape, profile, bias=bias, nested=nested)
            yield case(shape, profile, nested=nested, gradient=True)
    for M in _ROWS:
        for N, K in ((24, 96), (65, 300), (300, 65)):
            yield case((M, N, K), Profile.FULL, bias=True, nested=True)
            yield case((M, N, K), Profile.FULL, nested=True, gradient=True)
    for M in (4, 17):
        yield case((M, 6, 130), Profile.CORE, damaged=True, bias=True)
        yield case((M, 6, 130), Profile.CORE, damaged=True, gradient=True)
    for mode in (Mode.REPEAT, Mode.THREADS):
        for M in (1, 17):
            yield case((M, 129, 257), Profile.CORE, bias=True, nested=True, mode=mode)
            yield case((M, 129, 257), Profile.CORE, nested=True, gradient=True, mode=mode)


def linear_cases() -> Iterator[Case]:
    """All cases of the linear layer and its gradient."""
    for dtype in FORMATS:
        for quant_type in ("nf4", "fp4"):
            for blocksize in FOUR_BIT_BLOCKSIZES:
                yield from _cases(quant_type, blocksize, dtype)
