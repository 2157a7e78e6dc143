"""Cases of linear_4bit and linear_4bit_backward."""

from collections.abc import Callable, Iterator

from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.linear_inputs import damaged, linear_input
from kq_conformance.cases.linear_probes import probe_cases
from kq_conformance.cases.linear_problems import Linear4bit, Linear4bitBackward
from kq_conformance.cases.weights import random_weights
from kq_conformance.floats import FORMATS, store
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES

__all__ = ["linear_cases"]

# (M, N, K): one row, few rows, more than a register tile, more than a cache tile; N and K off every
# vector width; K shorter than a block, exactly one, odd, and several blocks with a tail.
_SHAPES = (
    (1, 48, 130),
    (1, 37, 256),
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
# M, N or K beyond what 16 bits count. K is what the layer sums over, N what its gradient does.
_LARGE = ((2, 3, (1 << 16) + 65), (2, (1 << 16) + 65, 7), ((1 << 16) + 5, 2, 33))
_LARGE_BACKWARD = (*_LARGE[:2], ((1 << 16) + 5, 33, 2))


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
        kind: str = "",
        mode: Mode = Mode.VALUES,
    ) -> Case:
        M, N, K = shape
        demand = backward if gradient else forward
        parts = [demand.op, quant_type, f"b{blocksize}", dtype, f"m{M}-n{N}-k{K}"]
        parts += [name for name, on in {"bias": bias, "nested": nested, kind: kind}.items() if on]
        parts += [mode.value] if mode is not Mode.VALUES else []

        def make(draw: Draw) -> Linear4bit | Linear4bitBackward:
            weights = random_weights(draw, N, K, quant_type, blocksize, nested)
            weights = damaged(weights, 1, 2) if kind == "nonfinite" else weights
            if gradient:
                return Linear4bitBackward(linear_input(draw, M, N, kind, dtype), weights)
            x = linear_input(draw, M, K, kind, dtype)
            return Linear4bit(x, weights, store(draw.bell(N), dtype) if bias else None)

        return Case("/".join(parts), profile, demand, make, mode)

    if blocksize == 64:
        yield from _usual(case)
        yield from _special(case, quant_type, dtype)
    else:
        yield from _other_block_sizes(case, blocksize)


def _other_block_sizes(case: Callable[..., Case], blocksize: int) -> Iterator[Case]:
    # Two blocks and a tail, and a row shorter than a block.
    for K in (min(2 * blocksize + 3, blocksize + 35), blocksize // 2 + 1):
        yield case((3, 6, K), Profile.CORE)
        yield case((3, 6, K), Profile.CORE, bias=True, nested=True)
        yield case((3, 6, K), Profile.CORE, gradient=True, nested=True)
    for M in _ROWS:
        yield case((M, 19, blocksize + 33), Profile.FULL, bias=True)


def _usual(case: Callable[..., Case]) -> Iterator[Case]:
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


def _special(case: Callable[..., Case], quant_type: str, dtype: str) -> Iterator[Case]:
    """Numbers that are none, very small or very large; large sizes; behavior; placements."""
    for M in (4, 17):
        yield case((M, 6, 130), Profile.CORE, kind="nonfinite", bias=True)
        yield case((M, 6, 130), Profile.CORE, kind="nonfinite", gradient=True)
    # Matrix units take subnormal bfloat16 numbers as zero (Intel SDM, TDPBF16PS), and may; what
    # float32 makes of results that overflow depends on the order of the sum.
    for kind, asked in (("denormal", dtype != "bfloat16"), ("overflow", dtype == "float16")):
        for M in (1, 5, 17) if asked else ():
            yield case((M, 21, 900), Profile.CORE, kind=kind, bias=kind == "overflow")
            yield case((M, 900, 21), Profile.CORE, kind=kind, gradient=True)
    core = dtype != "float16" and quant_type == "nf4"
    large = Profile.CORE if core else Profile.FULL
    for shapes, gradient in ((_LARGE, False), (_LARGE_BACKWARD, True)):
        for shape in shapes:
            # More scales than 16 bits count, too.
            yield case(shape, large, nested=shape[1] > shape[2], gradient=gradient)
    for mode in (Mode.REPEAT, Mode.THREADS):
        for M in (1, 17):
            yield case((M, 129, 257), Profile.CORE, bias=True, nested=True, mode=mode)
            yield case((M, 129, 257), Profile.CORE, nested=True, gradient=True, mode=mode)
    for mode in (Mode.BEFORE, Mode.OFFSET, Mode.STRIDED):
        for M in (3, 37):
            for nested in (False, True):
                shape = (M, 21, 197)
                yield case(shape, Profile.CORE, bias=nested, nested=nested, mode=mode)
                yield case(shape, Profile.CORE, nested=nested, gradient=True, mode=mode)


def linear_cases() -> Iterator[Case]:
    """All cases of the linear layer and its gradient."""
    for dtype in FORMATS:
        for quant_type in ("nf4", "fp4"):
            for blocksize in FOUR_BIT_BLOCKSIZES:
                yield from _cases(quant_type, blocksize, dtype)
                yield from probe_cases(quant_type, blocksize, dtype)
