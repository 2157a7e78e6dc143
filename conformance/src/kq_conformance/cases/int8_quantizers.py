"""Cases of int8_vectorwise_quant and int8_vectorwise_dequant."""

from collections.abc import Iterator

import numpy as np

from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_inputs import (
    SWEEPS,
    THRESHOLD,
    UNUSUAL,
    Rows,
    everywhere,
    rows_of,
    threshold_steps,
    with_outliers,
)
from kq_conformance.cases.int8_problems import Int8Dequant, Int8Quant
from kq_conformance.cases.matrices import LONG, MANY
from kq_conformance.cases.several import Several
from kq_conformance.floats import FLOAT32, FORMATS, Float64, store, stored_integers

__all__ = ["int8_quantizer_cases"]

_TAILS = (1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 130, 257)
_EVERY = range(1, 131)
# 6, one float32 step below and above it, and a number that no float32 is.
_STEPS = {
    "at": THRESHOLD,
    "below": float(FLOAT32.step(np.array([THRESHOLD]), -1)[0]),
    "above": float(FLOAT32.step(np.array([THRESHOLD]), +1)[0]),
    "between": THRESHOLD + 2.0**-40,
}


def _thresholds(dtype: str) -> Iterator[tuple[str, Rows, float]]:
    """Matrices and what is an outlier in them."""
    yield "outliers", with_outliers(7, 133), THRESHOLD
    yield "outliers-of-one-row", with_outliers(1, 133), THRESHOLD
    for name, threshold in _STEPS.items():
        yield f"threshold-{name}", threshold_steps(threshold), threshold
    yield "outliers-everywhere", everywhere, THRESHOLD
    yield "outliers-nowhere", with_outliers(7, 133), 64.0
    # Beyond the largest float16, and below all numbers of the type but zero.
    yield "threshold-huge", UNUSUAL["spike"], 2.0**17
    yield "threshold-tiny", UNUSUAL["zeros"], FORMATS[dtype].tiny
    for name in ("nonfinite", "wide"):
        yield f"{name}/outliers", UNUSUAL[name], 2.5


def _quant(dtype: str) -> Iterator[Case]:
    prefix, demand = f"int8_vectorwise_quant/int8/{dtype}", Demand("int8_vectorwise_quant", dtype)

    def case(
        name: str,
        rows: Rows,
        threshold: float = 0.0,
        profile: Profile = Profile.CORE,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        def make(draw: Draw) -> Int8Quant:
            return Int8Quant(rows(draw, dtype), threshold)

        return Case(f"{prefix}/{name}", profile, demand, make, mode)

    for name, rows in UNUSUAL.items():
        yield case(name, rows, profile=Profile.QUICK if name == "random" else Profile.CORE)
    for name, rows, threshold in _thresholds(dtype):
        profile = Profile.QUICK if name == "outliers" else Profile.CORE
        yield case(name, rows, threshold, profile)
    if dtype != "float32":
        for name, rows in SWEEPS.items():
            yield case(name, rows)
    large = Profile.FULL if dtype == "float16" else Profile.CORE
    for suffix, make, threshold in (("", rows_of, 0.0), ("/outliers", with_outliers, THRESHOLD)):
        for cols in _TAILS:
            yield case(f"tail-c{cols}{suffix}", make(3, cols), threshold)
        for height, cols in ((0, 64), (3, 0), (0, 0)):
            yield case(f"empty-r{height}-c{cols}{suffix}", make(height, cols), threshold)
        yield case(f"long-row{suffix}", make(1, LONG), threshold, large)
        yield case(f"many-rows{suffix}", make(MANY, 3), threshold, large)
        for mode in (Mode.REPEAT, Mode.THREADS):
            yield case(f"r37-c197{suffix}/{mode}", make(37, 197), threshold, mode=mode)
        for mode in (Mode.BEFORE, Mode.OFFSET, Mode.STRIDED):
            yield case(f"r5-c197{suffix}/{mode}", make(5, 197), threshold, mode=mode)

    def every_tail(draw: Draw) -> Several:
        kinds = {"": (rows_of, 0.0), " outliers": (with_outliers, THRESHOLD)}
        return Several(
            {
                f"c{cols}{name}": Int8Quant(make(3, cols)(draw, dtype), threshold)
                for cols in _EVERY
                for name, (make, threshold) in kinds.items()
            }
        )

    yield Case(f"{prefix}/every-tail", Profile.FULL, demand, every_tail)


def _special_scales(draw: Draw, dtype: str) -> Float64:
    """Scales at which decoding changes its nature: zero, subnormal results, the largest, damage."""
    chosen = FORMATS[dtype]
    special = [0.0, FLOAT32.tiny, 2.0**-126, 1.0, 127.0, FLOAT32.largest, np.inf, np.nan]
    special += [chosen.tiny, 100 * chosen.tiny, 2.0**chosen.emin, chosen.largest]
    return np.concatenate([special, draw.magnitudes(-100, 100, 5), draw.magnitudes(-12, 12, 5)])


def _dequant(dtype: str) -> Iterator[Case]:
    demand = Demand("int8_vectorwise_dequant", dtype)
    prefix = f"{demand.op}/int8/{dtype}"

    def problem(draw: Draw, cols: int, rows: int | None = None) -> Int8Dequant:
        scales = _special_scales(draw, dtype)
        scales = scales if rows is None else np.resize(scales[::-1], rows)
        codes = draw.integers(256, scales.size, cols) - 128
        if cols >= 256:
            codes[:, :256] = np.arange(256) - 128
        return Int8Dequant(stored_integers(codes, "int8"), store(scales, "float32"), dtype)

    def case(
        name: str,
        cols: int,
        rows: int | None = None,
        profile: Profile = Profile.CORE,
        mode: Mode = Mode.VALUES,
    ) -> Case:
        return Case(
            f"{prefix}/{name}", profile, demand, lambda draw: problem(draw, cols, rows), mode
        )

    yield case("all-codes", 273, profile=Profile.QUICK)
    for cols in _TAILS:
        yield case(f"tail-c{cols}", cols)
    for rows, cols in ((0, 64), (3, 0), (0, 0)):
        yield case(f"empty-r{rows}-c{cols}", cols, rows)
    large = Profile.FULL if dtype == "float16" else Profile.CORE
    yield case("long-row", LONG, 1, large)
    yield case("many-rows", 3, MANY, large)
    for mode in (Mode.REPEAT, Mode.THREADS):
        yield case(f"r37-c197/{mode}", 197, 37, mode=mode)
    for mode in (Mode.BEFORE, Mode.OFFSET):
        yield case(f"r5-c197/{mode}", 197, 5, mode=mode)

    def every_tail(draw: Draw) -> Several:
        return Several({f"c{cols}": problem(draw, cols) for cols in _EVERY})

    yield Case(f"{prefix}/every-tail", Profile.FULL, demand, every_tail)


def int8_quantizer_cases() -> Iterator[Case]:
    """All cases of the quantizer and the decoder."""
    for dtype in FORMATS:
        yield from _quant(dtype)
        yield from _dequant(dtype)
