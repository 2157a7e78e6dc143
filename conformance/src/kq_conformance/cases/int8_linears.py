"""Cases of int8_linear and int8_linear_backward."""

from collections.abc import Callable, Iterator

import numpy as np

from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_inputs import (
    THRESHOLD,
    Rows,
    damaged_weight,
    everywhere,
    int8_weight,
    threshold_steps,
    with_outliers,
)
from kq_conformance.cases.int8_problems import Int8Linear, Int8LinearBackward, Int8Weight
from kq_conformance.cases.int8_products import SHAPES, cancelling
from kq_conformance.cases.linear_inputs import linear_input
from kq_conformance.cases.several import Several
from kq_conformance.floats import FORMATS, Stored, store
from kq_conformance.reference import INT8_LARGEST, INT8_MAX_COLS

__all__ = ["int8_linear_cases"]

_LONG = (1 << 16) + 65
_LARGE = ((2, 3, _LONG), (2, _LONG, 7), ((1 << 16) + 5, 2, 33))
_LARGE_BACKWARD = ((2, 3, _LONG), (2, _LONG, 7), ((1 << 16) + 5, 33, 2))


def _plain(M: int, K: int) -> Rows:
    return lambda draw, dtype: linear_input(draw, M, K, "", dtype)


def _decided(M: int, K: int) -> Rows:
    """Codes times a power of two, in each row the largest: float32 decides every code."""

    def make(draw: Draw, dtype: str) -> Stored:
        codes = draw.integers(2 * INT8_LARGEST + 1, M, K) - INT8_LARGEST
        codes[:, 0] = INT8_LARGEST
        return store(np.ldexp(codes, draw.integers(6, M, 1) - 6), dtype)

    return make


def _damaged(M: int, K: int) -> Rows:
    """NaN in a row, infinities in two, and rows that are not damaged."""
    return lambda draw, dtype: linear_input(draw, M, K, "nonfinite", dtype)


def _tiny(M: int, K: int) -> Rows:
    """Rows whose scale is so small that 127/absmax overflows in float32."""
    return lambda draw, dtype: store(np.ldexp(draw.bell(M, K), -125), dtype)


class _Cases:
    """The cases of one type."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def forward(
        self,
        name: str,
        rows: Rows,
        weight: Callable[[Draw], Int8Weight],
        *,
        threshold: float = 0.0,
        bias: bool = False,
        profile: Profile = Profile.CORE,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        """A case of the product of any rows and any weight."""

        def make(draw: Draw) -> Int8Linear:
            chosen = weight(draw)
            added = store(draw.bell(len(chosen.codes.bits)), self.dtype) if bias else None
            return Int8Linear(rows(draw, self.dtype), chosen, added, threshold)

        demand = Demand("int8_linear", self.dtype)
        parts = [name, *(["bias"] if bias else []), *([mode] if mode is not Mode.VALUES else [])]
        return Case(f"int8_linear/int8/{self.dtype}/{'/'.join(parts)}", profile, demand, make, mode)

    def product(self, shape: tuple[int, int, int], *, outliers: bool = False, **o: object) -> Case:
        """A case of the usual rows, with outliers or without."""
        M, N, K = shape
        name = f"m{M}-n{N}-k{K}{'/outliers' if outliers else ''}"
        rows, threshold = (with_outliers, THRESHOLD) if outliers else (_plain, 0.0)
        weight = _weight(N, K)
        return self.forward(name, rows(M, K), weight, threshold=threshold, **o)  # type: ignore[arg-type]

    def gradient(
        self,
        shape: tuple[int, int, int],
        *,
        kind: str = "",
        profile: Profile = Profile.CORE,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        """A case of the gradient."""
        M, N, K = shape

        def make(draw: Draw) -> Int8LinearBackward:
            weight = int8_weight(draw, N, K)
            weight = damaged_weight(weight, 1, 2) if kind == "nonfinite" else weight
            return Int8LinearBackward(linear_input(draw, M, N, kind, self.dtype), weight)

        demand = Demand("int8_linear_backward", self.dtype)
        parts = [f"m{M}-n{N}-k{K}", *([kind] if kind else [])]
        parts += [mode] if mode is not Mode.VALUES else []
        case_id = f"int8_linear_backward/int8/{self.dtype}/{'/'.join(parts)}"
        return Case(case_id, profile, demand, make, mode)


def _weight(N: int, K: int, low: int = -6, high: int = 0) -> Callable[[Draw], Int8Weight]:
    return lambda draw: int8_weight(draw, N, K, low, high)


def _usual(cases: _Cases) -> Iterator[Case]:
    for shape in SHAPES:
        profile = Profile.QUICK if shape[:2] in ((1, 48), (16, 48)) else Profile.CORE
        for outliers in (False, True):
            for bias in (False, True):
                yield cases.product(shape, outliers=outliers, bias=bias, profile=profile)
        yield cases.gradient(shape, profile=profile)
    large = Profile.FULL if cases.dtype == "float16" else Profile.CORE
    for shape in (*_LARGE, (3, 5, INT8_MAX_COLS)):
        for outliers in (False, True):
            yield cases.product(shape, outliers=outliers, profile=large)
    for shape in _LARGE_BACKWARD:
        yield cases.gradient(shape, profile=large)
    for M in (1, 3, 37):
        modes = (Mode.REPEAT, Mode.THREADS, Mode.BEFORE, Mode.OFFSET, Mode.STRIDED)
        for mode in modes if M > 1 else modes[:2]:
            for outliers in (False, True):
                shape = (M, 129, 197)
                yield cases.product(shape, outliers=outliers, bias=outliers, mode=mode)
            yield cases.gradient((M, 129, 197), mode=mode)


def _special(cases: _Cases) -> Iterator[Case]:
    """Thresholds at elements, codes that are all decided, sums that need 32 bits, damage."""
    for M in (1, 5, 37):
        yield cases.forward(f"decided-m{M}-n33-k257", _decided(M, 257), _weight(33, 257))
        yield cases.forward(
            f"decided-m{M}-k8193/cancelling", _decided_largest(M, 8193), _cancelling(7, 8193)
        )
        if M > 1:
            damage = _damaged_weight(6, 130)
            for name, threshold in (("", 0.0), ("/outliers", 2.5)):
                yield cases.forward(
                    f"damaged-m{M}-n6-k130{name}",
                    _damaged(M, 130),
                    damage,
                    threshold=threshold,
                    bias=True,
                )
            yield cases.gradient((M, 6, 130), kind="nonfinite")
    for name, rows, threshold in (
        ("threshold-at", threshold_steps(THRESHOLD), THRESHOLD),
        ("threshold-between", threshold_steps(THRESHOLD), THRESHOLD + 2.0**-40),
        ("outliers-nowhere", threshold_steps(THRESHOLD), 64.0),
    ):
        yield cases.forward(f"{name}-m5-n33-k71", rows, _weight(33, 71), threshold=threshold)
    yield cases.forward(
        "outliers-everywhere-m5-n33-k67",
        everywhere,
        _weight(33, 67),
        threshold=THRESHOLD,
        bias=True,
    )
    if cases.dtype != "float16":
        for M in (1, 5):
            yield cases.forward(f"tiny-m{M}-n33-k67", _tiny(M, 67), _weight(33, 67, 58, 62))
    else:
        for M in (1, 5, 17):
            rows = _overflowing(M, 900)
            yield cases.forward(f"overflow-m{M}-n21-k900", rows, _weight(21, 900), bias=True)
            yield cases.gradient((M, 900, 21), kind="overflow")
            yield cases.gradient((M, 900, 21), kind="denormal")


def _damaged_weight(N: int, K: int) -> Callable[[Draw], Int8Weight]:
    return lambda draw: damaged_weight(int8_weight(draw, N, K), 1, 2)


def _cancelling(N: int, K: int) -> Callable[[Draw], Int8Weight]:
    def make(draw: Draw) -> Int8Weight:
        return Int8Weight(cancelling(draw, N, K), store(draw.magnitudes(-6, 0, N), "float32"))

    return make


def _decided_largest(M: int, K: int) -> Rows:
    """Every code is 127."""

    def make(draw: Draw, dtype: str) -> Stored:
        ones = np.full((M, K), float(INT8_LARGEST))
        return store(np.ldexp(ones, draw.integers(6, M, 1) - 6), dtype)

    return make


def _overflowing(M: int, K: int) -> Rows:
    return lambda draw, dtype: linear_input(draw, M, K, "overflow", dtype)


def _every_size(cases: _Cases) -> Iterator[Case]:
    """Each M to 100, and each N and K to 40, in one case each."""
    named = {
        "every-m-to-100": [(M, 37, 70) for M in range(1, 101)],
        "every-n-to-40": [(M, N, 67) for N in range(1, 41) for M in (1, 5)],
        "every-k-to-40": [(M, 19, K) for K in range(1, 41) for M in (1, 7)],
    }
    for name, shapes in named.items():

        def forward(draw: Draw, shapes: list[tuple[int, int, int]] = shapes) -> Several:
            made = (
                cases.product(shape, outliers=outliers, bias=True)
                for shape in shapes
                for outliers in (False, True)
            )
            return Several({case.id.split("/", 3)[3]: case.make(draw) for case in made})

        def backward(draw: Draw, shapes: list[tuple[int, int, int]] = shapes) -> Several:
            made = (cases.gradient(shape) for shape in shapes)
            return Several({case.id.split("/", 3)[3]: case.make(draw) for case in made})

        for op, make in (("int8_linear", forward), ("int8_linear_backward", backward)):
            demand = Demand(op, cases.dtype)
            profile = Profile.CORE if cases.dtype == "bfloat16" else Profile.FULL
            yield Case(f"{op}/int8/{cases.dtype}/{name}", profile, demand, make)


def int8_linear_cases() -> Iterator[Case]:
    """All cases of the linear layer with int8 weights and its gradient."""
    for dtype in FORMATS:
        cases = _Cases(dtype)
        yield from _usual(cases)
        yield from _special(cases)
        yield from _every_size(cases)
