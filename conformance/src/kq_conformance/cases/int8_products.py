"""Cases of int8_linear_matmul and int8_mm_dequant."""

from collections.abc import Callable, Iterator

import numpy as np

from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_inputs import int8_codes
from kq_conformance.cases.int8_problems import Int8Matmul, Int8MmDequant
from kq_conformance.cases.several import Several
from kq_conformance.floats import FORMATS, Float64, Stored, store, stored_integers
from kq_conformance.reference import INT8_LARGEST, INT8_MAX_COLS

__all__ = ["SHAPES", "cancelling", "int8_product_cases"]

SHAPES = (
    *((1, 48, 130), (1, 37, 256), (2, 1, 31), (3, 7, 1), (4, 9, 2), (4, 16, 4), (5, 33, 257)),
    *((16, 48, 64), (17, 40, 191), (64, 17, 96), (100, 16, 130)),
    *((0, 16, 64), (3, 0, 64), (3, 4, 0), (0, 0, 0)),
)
"""(M, N, K): one row, few, more than a register tile and than a cache tile; N and K off every
vector width, K no multiple of 4; empty ones."""

_INT32_LARGEST = 2**31 - 1


def cancelling(draw: Draw, rows: int, cols: int) -> Stored:
    """Codes [rows, cols] that add up to little, though their partial sums are large."""
    half = cols // 2
    large = INT8_LARGEST - draw.integers(4, rows, half)
    codes = np.concatenate([large, -large[:, ::-1], np.zeros((rows, cols % 2))], axis=1)
    codes[:, :3] -= draw.integers(50, rows, 3)
    return stored_integers(codes, "int8")


def _every(last: int) -> list[tuple[int, int, int]]:
    """Each M, each N and each K up to a last one."""
    sizes = range(1, last + 1)
    rows, outputs = ((n, 37, 70) for n in sizes), ((m, n, 67) for n in sizes for m in (1, 5))
    return [*rows, *outputs, *((m, 19, n) for n in sizes for m in (1, 7))]


def _matmul() -> Iterator[Case]:
    demand = Demand("int8_linear_matmul", "int8")

    def case(
        name: str,
        make: Callable[[Draw], Int8Matmul | Several],
        profile: Profile = Profile.CORE,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        return Case(f"{demand.op}/int8/int8/{name}", profile, demand, make, mode)

    def product(
        M: int, N: int, K: int, largest: int = INT8_LARGEST
    ) -> Callable[[Draw], Int8Matmul]:
        def make(draw: Draw) -> Int8Matmul:
            a, b = (int8_codes(draw, size, K, largest=largest) for size in (M, N))
            return Int8Matmul(a, b)

        return make

    def constant(K: int, *ends: int) -> Callable[[Draw], Int8Matmul]:
        """Rows of one code each: every sum is as large as it can be, of either sign."""

        def make(draw: Draw) -> Int8Matmul:
            del draw
            rows = np.resize(np.array(ends), 5)
            codes = np.broadcast_to(rows[:, None], (rows.size, K))
            return Int8Matmul(stored_integers(codes, "int8"), stored_integers(codes[1:], "int8"))

        return make

    for M, N, K in SHAPES:
        profile = Profile.QUICK if (M, N) in ((1, 48), (16, 48)) else Profile.CORE
        yield case(f"m{M}-n{N}-k{K}", product(M, N, K), profile)
    # -128 is no code of the quantizer, but it is an int8.
    for M in (1, 5, 37):
        yield case(f"m{M}-n33-k257/all-codes", product(M, 33, 257, largest=128))
    for K in (64, 4099):
        yield case(f"k{K}/largest", constant(K, INT8_LARGEST, -INT8_LARGEST))
    yield case("k1024/lowest", constant(1024, -128, INT8_LARGEST))
    yield case(f"k{INT8_MAX_COLS}/largest", constant(INT8_MAX_COLS, INT8_LARGEST, -INT8_LARGEST))
    ones = stored_integers(np.full((3, 8193), INT8_LARGEST), "int8")
    yield case("k8193/cancelling", lambda draw: Int8Matmul(ones, cancelling(draw, 7, 8193)))
    for shape in ((2, 3, (1 << 16) + 65), (2, (1 << 16) + 65, 7), ((1 << 16) + 5, 2, 33)):
        yield case("m{}-n{}-k{}".format(*shape), product(*shape))
    yield case(f"m3-n5-k{INT8_MAX_COLS}", product(3, 5, INT8_MAX_COLS))
    for M in (1, 3, 37):
        modes = (Mode.REPEAT, Mode.THREADS, Mode.BEFORE, Mode.OFFSET, Mode.STRIDED)
        for mode in modes if M > 1 else modes[:2]:
            yield case(f"m{M}-n129-k197/{mode}", product(M, 129, 197), mode=mode)

    def every(draw: Draw, last: int) -> Several:
        return Several({"m{}-n{}-k{}".format(*each): product(*each)(draw) for each in _every(last)})

    yield case("every-size-to-40", lambda draw: every(draw, 40))
    yield case("every-size-to-100", lambda draw: every(draw, 100), Profile.FULL)


def _sums(draw: Draw, M: int, N: int, kind: str) -> Stored:
    """Sums of codes: of any size, some of them 0; or such that float32 does not hold them."""
    sums = draw.signs(M, N) * np.floor(draw.magnitudes(0, 24, M, N))
    sums[:, ::5] = 0
    if kind == "large-sums":
        sums = draw.signs(M, N) * (_INT32_LARGEST - draw.integers(1 << 27, M, N))
    return stored_integers(sums, "int32")


def _special_scales(size: int) -> Float64:
    """Scales of zero, of damage, tiny and huge; no two of them multiply to an overflow."""
    return np.resize([1.0, 0.0, np.nan, np.inf, 2.0**-60, 2.0**-126, 3.5, 2.0**40], size)


def _mm_dequant(dtype: str) -> Iterator[Case]:
    demand = Demand("int8_mm_dequant", dtype)

    def case(
        shape: tuple[int, int],
        profile: Profile = Profile.CORE,
        *,
        kind: str = "",
        bias: bool = False,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        M, N = shape

        def make(draw: Draw) -> Int8MmDequant:
            scales = [draw.magnitudes(-4, 1, size) for size in shape]
            if kind == "special-scales":
                scales = [_special_scales(size) for size in shape]
            added = store(draw.bell(N) * draw.magnitudes(-2, 8, N), dtype) if bias else None
            row, col = (store(each, "float32") for each in scales)
            return Int8MmDequant(_sums(draw, M, N, kind), row, col, added, dtype)

        flags = {"bias": bias, kind: kind, mode.value: mode is not Mode.VALUES}
        parts = [f"m{M}-n{N}", *(name for name, on in flags.items() if on)]
        return Case(f"{demand.op}/int8/{dtype}/{'/'.join(parts)}", profile, demand, make, mode)

    sizes = ((1, 48), (1, 1), (2, 31), (3, 7), (5, 33), (17, 40), (64, 17), (0, 16), (3, 0))
    for shape in sizes:
        profile = Profile.QUICK if shape == (5, 33) else Profile.CORE
        for bias in (False, True):
            yield case(shape, profile, bias=bias)
    for kind in ("large-sums", "special-scales"):
        yield case((17, 33), kind=kind)
        yield case((17, 33), kind=kind, bias=True)
    large = Profile.FULL if dtype == "float16" else Profile.CORE
    for shape in ((2, (1 << 16) + 65), ((1 << 16) + 5, 3)):
        yield case(shape, large, bias=True)
    for mode in (Mode.REPEAT, Mode.THREADS, Mode.BEFORE, Mode.OFFSET, Mode.STRIDED):
        yield case((37, 129), bias=True, mode=mode)


def int8_product_cases() -> Iterator[Case]:
    """All cases of the product of codes and of its scaling."""
    yield from _matmul()
    for dtype in FORMATS:
        yield from _mm_dequant(dtype)
