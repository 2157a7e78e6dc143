"""Cases of linear_4bit_grouped and linear_4bit_grouped_backward."""

from collections.abc import Callable, Iterator

from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.grouped_probes import picked_cases
from kq_conformance.cases.grouped_problems import (
    Experts,
    GroupedLinear4bit,
    GroupedLinear4bitBackward,
)
from kq_conformance.cases.linear_inputs import damaged, linear_input
from kq_conformance.cases.weights import random_weights
from kq_conformance.floats import FORMATS, store
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES

__all__ = ["COUNTS", "grouped_cases"]

# How many rows each expert gets. Experts without rows stand before, between and behind others.
COUNTS: dict[str, tuple[int, ...]] = {
    "uneven": (3, 0, 21, 1, 5),
    "zeros-between": (0, 4, 0, 0, 17, 0, 2, 0),
    "all-to-one": (0, 0, 19, 0),
    "one-each": (1,) * 8,
    "one-expert": (6,),
    "many-experts": (2, 0, 0, 1, 0, 0, 0, 3) * 8,
    "no-rows": (0, 0, 0),
    "long": (1, 0, 17, 40),
    "damaged": (6, 5, 0, 7),
    "large-rows": (40001, 0, 25540),
    "large-features": (2, 0, 1),
}
# (N, K) off every vector width, with more nested blocks than one, which straddle experts.
_USUAL = {
    "uneven": (33, 257),
    "zeros-between": (33, 257),
    "all-to-one": (33, 257),
    "one-each": (33, 257),
    "one-expert": (65, 257),
    "many-experts": (9, 130),
}
_SHAPES = ((48, 130), (1, 31), (7, 1), (17, 96), (0, 64), (4, 0))


def _cases(quant_type: str, blocksize: int, dtype: str) -> Iterator[Case]:
    forward, backward = (
        Demand(op, dtype, quant_type, blocksize)
        for op in ("linear_4bit_grouped", "linear_4bit_grouped_backward")
    )

    def case(
        name: str,
        shape: tuple[int, int],
        profile: Profile,
        *,
        bias: bool = False,
        nested: bool = False,
        gradient: bool = False,
        kind: str = "",
        mode: Mode = Mode.VALUES,
    ) -> Case:
        (N, K), counts = shape, COUNTS[name]
        demand = backward if gradient else forward
        parts = [demand.op, quant_type, f"b{blocksize}", dtype, f"{name}-n{N}-k{K}"]
        parts += [name for name, on in {"bias": bias, "nested": nested, kind: kind}.items() if on]
        parts += [mode.value] if mode is not Mode.VALUES else []

        def make(draw: Draw) -> GroupedLinear4bit | GroupedLinear4bitBackward:
            E, T = len(counts), sum(counts)
            weights = random_weights(draw, E * N, K, quant_type, blocksize, nested)
            if kind == "nonfinite":
                # In the second expert, and in the third, which gets no rows; the input spoils some
                # rows of the first. The last one is whole.
                weights = damaged(weights, N + 1, 2 * N + 2)
            experts = Experts(weights, counts)
            if gradient:
                return GroupedLinear4bitBackward(linear_input(draw, T, N, kind, dtype), experts)
            x = linear_input(draw, T, K, kind, dtype)
            return GroupedLinear4bit(x, experts, store(draw.bell(E, N), dtype) if bias else None)

        return Case("/".join(parts), profile, demand, make, mode)

    if blocksize == 64:
        yield from _usual(case)
        yield from _special(case, quant_type, dtype)
    else:
        yield from _other_block_sizes(case, blocksize)


def _other_block_sizes(case: Callable[..., Case], blocksize: int) -> Iterator[Case]:
    # Two blocks and a tail, and a row shorter than a block.
    for K in (min(2 * blocksize + 3, blocksize + 35), blocksize // 2 + 1):
        yield case("zeros-between", (6, K), Profile.CORE, bias=True)
        yield case("zeros-between", (6, K), Profile.CORE, nested=True)
        yield case("zeros-between", (6, K), Profile.CORE, gradient=True, nested=True)


def _usual(case: Callable[..., Case]) -> Iterator[Case]:
    for name, shape in _USUAL.items():
        profile = Profile.QUICK if name == "uneven" else Profile.CORE
        yield case(name, shape, profile)
        yield case(name, shape, profile, bias=True, nested=True)
        yield case(name, shape, profile, nested=True, gradient=True)
    for name, shape in (("no-rows", (33, 65)), *(("zeros-between", each) for each in _SHAPES)):
        yield case(name, shape, Profile.CORE, bias=True)
        yield case(name, shape, Profile.CORE, nested=True)
        yield case(name, shape, Profile.CORE, nested=True, gradient=True)
    for name in (*_USUAL, "long"):
        for shape in ((24, 96), (65, 300), (300, 65)):
            yield case(name, shape, Profile.FULL, bias=True, nested=True)
            yield case(name, shape, Profile.FULL, gradient=True)


def _special(case: Callable[..., Case], quant_type: str, dtype: str) -> Iterator[Case]:
    """Numbers that are none; large sizes; behavior; placements."""
    yield case("damaged", (6, 130), Profile.CORE, kind="nonfinite", bias=True)
    yield case("damaged", (6, 130), Profile.CORE, kind="nonfinite", gradient=True)
    core = dtype != "float16" and quant_type == "nf4"
    large = Profile.CORE if core else Profile.FULL
    # More rows, and more outputs and scales of all experts, than 16 bits count.
    yield case("large-rows", (2, 33), large)
    yield case("large-rows", (33, 2), large, gradient=True)
    yield case("large-features", (21867, 7), large, nested=True)
    yield case("large-features", (21867, 7), large, nested=True, gradient=True)
    for mode in (Mode.REPEAT, Mode.THREADS):
        yield case("long", (129, 257), Profile.CORE, bias=True, nested=True, mode=mode)
        yield case("long", (129, 257), Profile.CORE, nested=True, gradient=True, mode=mode)
    for mode in (Mode.BEFORE, Mode.OFFSET, Mode.STRIDED):
        for nested in (False, True):
            placed = ("zeros-between", (21, 197), Profile.CORE)
            yield case(*placed, bias=nested, nested=nested, mode=mode)
            yield case(*placed, nested=nested, gradient=True, mode=mode)


def grouped_cases() -> Iterator[Case]:
    """All cases of the linear layers of many experts and of their gradients."""
    for dtype in FORMATS:
        for quant_type in ("nf4", "fp4"):
            yield from picked_cases(quant_type, dtype)
            for blocksize in FOUR_BIT_BLOCKSIZES:
                yield from _cases(quant_type, blocksize, dtype)
