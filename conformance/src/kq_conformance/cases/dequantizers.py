"""Cases of dequantize_4bit and dequantize_blockwise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import Judgement, Strictness, accept_decoded, exact_scales
from kq_conformance.cases.case import Case, Demand, Mode, Profile
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.matrices import LONG, MANY, every_length, tail_lengths
from kq_conformance.cases.several import Several
from kq_conformance.cases.weights import Weights, plain_scales, random_weights
from kq_conformance.floats import (
    FLOAT32,
    FORMATS,
    Float64,
    Stored,
    store,
    stored_bytes,
    values_of,
)
from kq_conformance.reference import (
    FOUR_BIT_BLOCKSIZES,
    codebook_4bit,
    count_blocks,
    dequantize_4bit,
    dequantize_blockwise,
    pack,
    spread,
)
from kq_conformance.subject import Outputs, Subject

__all__ = ["dequantizer_cases"]


def _special_scales(draw: Draw, dtype: str) -> Float64:
    """Scales at which decoding changes its nature: zero, subnormal results, overflow, damage."""
    chosen = FORMATS[dtype]
    special = [0.0, FLOAT32.tiny, 2.0**-126, 1.0, FLOAT32.largest, np.inf, np.nan]
    special += [chosen.tiny, 3 * chosen.tiny, 2.0**chosen.emin, chosen.largest]
    return np.concatenate([special, draw.magnitudes(-100, 100, 5), draw.magnitudes(-12, 12, 5)])


@dataclass(frozen=True)
class Dequantize4bit:
    """One call of dequantize_4bit."""

    weights: Weights
    dtype: str

    def call(self, subject: Subject) -> Outputs:
        w = self.weights
        return subject.dequantize_4bit(
            stored_bytes(w.packed),
            w.scales,
            w.cols,
            self.dtype,
            quant_type=w.quant_type,
            blocksize=w.blocksize,
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        w = self.weights
        expected = dequantize_4bit(
            w.packed, w.absmax, w.cols, w.quant_type, w.blocksize, self.dtype
        )
        accepted = accept_decoded(
            expected, w.values, w.enclosure(strictness), self.dtype, strictness
        )
        return [accepted.judge(values_of(outputs["out"]))]


@dataclass(frozen=True)
class DequantizeBlockwise:
    """One call of dequantize_blockwise."""

    codes: Stored
    code: Stored
    absmax: Stored
    dtype: str
    blocksize: int

    def call(self, subject: Subject) -> Outputs:
        return subject.dequantize_blockwise(
            self.codes, self.code, self.absmax, self.dtype, blocksize=self.blocksize
        )

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        code, absmax = values_of(self.code), values_of(self.absmax)
        codes = self.codes.bits
        expected = dequantize_blockwise(codes, code, absmax, self.blocksize, self.dtype)
        scales = exact_scales(spread(absmax, codes.shape[1], self.blocksize))
        accepted = accept_decoded(expected, code[codes], scales, self.dtype, strictness)
        return [accepted.judge(values_of(outputs["out"]))]


def _all_codes_4bit(draw: Draw, quant_type: str, blocksize: int, dtype: str) -> Weights:
    """Every code under every special scale; a tail block and a row of odd length."""
    scales = _special_scales(draw, dtype)
    cols = blocksize + 17
    codes = np.tile(np.arange(cols, dtype=np.uint8) % 16, (scales.size, 1))
    absmax = np.stack([scales, scales[::-1]], axis=1)
    packed = pack(codes, codebook_4bit(quant_type).zero)
    return Weights(packed, plain_scales(absmax), cols, quant_type, blocksize)


def _dequantize_4bit(quant_type: str, blocksize: int, dtype: str) -> Iterator[Case]:
    prefix = f"dequantize_4bit/{quant_type}/b{blocksize}/{dtype}"
    demand = Demand("dequantize_4bit", dtype, quant_type, blocksize)

    def case(
        name: str, profile: Profile, weights: Callable[[Draw], Weights], mode: Mode = Mode.VALUES
    ) -> Case:
        return Case(
            f"{prefix}/{name}",
            profile,
            demand,
            lambda draw: Dequantize4bit(weights(draw), dtype),
            mode,
        )

    def shape(rows: int, cols: int, nested: bool) -> Callable[[Draw], Weights]:
        return lambda draw: random_weights(draw, rows, cols, quant_type, blocksize, nested)

    usual = blocksize == 64
    quick = Profile.QUICK if usual else Profile.CORE
    costly = Profile.CORE if usual else Profile.FULL
    yield case("all-codes", quick, lambda draw: _all_codes_4bit(draw, quant_type, blocksize, dtype))
    # 300 rows: nested groups of 256 scales that begin inside a row and in different ones.
    yield case("nested", quick, shape(300, min(blocksize + 5, 70), nested=True))
    for cols in tail_lengths(blocksize):
        yield case(f"tail-c{cols}", costly, shape(3, cols, nested=False))
        yield case(f"tail-c{cols}/nested", costly, shape(3, cols, nested=True))

    def every_tail(draw: Draw) -> Several:
        return Several(
            {
                f"c{cols}{' nested' if nested else ''}": Dequantize4bit(
                    shape(3, cols, nested)(draw), dtype
                )
                for cols in every_length(blocksize)
                for nested in (False, True)
            }
        )

    if every_length(blocksize):
        yield Case(f"{prefix}/every-tail", Profile.FULL, demand, every_tail)
    for rows, cols in ((0, 64), (3, 0)):
        yield case(f"empty-r{rows}-c{cols}", costly, shape(rows, cols, nested=False))
    if usual:
        large = Profile.FULL if dtype == "float16" else Profile.CORE
        for flag, nested in (("", False), ("/nested", True)):
            yield case(f"long-row{flag}", large, shape(1, LONG, nested))
            yield case(f"many-rows{flag}", large, shape(MANY, 1, nested))
            for mode in (Mode.BEFORE, Mode.OFFSET):
                name = f"r5-c197{flag}/{mode}"
                yield case(name, Profile.CORE, shape(5, 197, nested), mode)
        for mode in (Mode.REPEAT, Mode.THREADS):
            yield case(mode.value, Profile.CORE, shape(37, 197, nested=True), mode)


def _dequantize_blockwise(map_name: str, blocksize: int, dtype: str) -> Iterator[Case]:
    prefix = f"dequantize_blockwise/{map_name}/b{blocksize}/{dtype}"
    demand = Demand("dequantize_blockwise", dtype, None, blocksize)
    code = store(CODE_MAPS[map_name](), "float32")

    def problem(draw: Draw, cols: int, rows: int | None) -> DequantizeBlockwise:
        scales = _special_scales(draw, dtype)
        height = scales.size if rows is None else rows
        codes = draw.integers(256, height, cols)
        if cols >= 256:
            codes[:, :256] = np.arange(256)
        # The first block of row r has scale r, the second one scale r − 1, ...
        blocks = np.arange(count_blocks(cols, blocksize))
        absmax = scales[(np.arange(height)[:, None] - blocks) % scales.size]
        return DequantizeBlockwise(
            stored_bytes(codes), code, store(absmax, "float32"), dtype, blocksize
        )

    def case(
        name: str, profile: Profile, cols: int, rows: int | None = None, mode: Mode = Mode.VALUES
    ) -> Case:
        return Case(
            f"{prefix}/{name}", profile, demand, lambda draw: problem(draw, cols, rows), mode
        )

    usual = blocksize == 256 and map_name == "dynamic-signed"
    costly = Profile.CORE if usual else Profile.FULL
    yield case("all-codes", Profile.QUICK if usual else Profile.CORE, 600)
    for cols in tail_lengths(blocksize):
        yield case(f"tail-c{cols}", costly, cols)

    def every_tail(draw: Draw) -> Several:
        return Several({f"c{cols}": problem(draw, cols, None) for cols in every_length(blocksize)})

    if every_length(blocksize):
        yield Case(f"{prefix}/every-tail", Profile.FULL, demand, every_tail)
    yield case("empty-r0-c64", costly, 64, rows=0)
    yield case("empty-r3-c0", costly, 0, rows=3)
    if usual:
        large = Profile.FULL if dtype == "float16" else Profile.CORE
        yield case("long-row", large, LONG, rows=1)
        yield case("many-rows", large, 1, rows=MANY)
        for mode in (Mode.REPEAT, Mode.THREADS):
            yield case(mode.value, Profile.CORE, 600, mode=mode)
        for mode in (Mode.BEFORE, Mode.OFFSET):
            yield case(mode.value, Profile.CORE, 773, rows=5, mode=mode)


def dequantizer_cases() -> Iterator[Case]:
    """All cases of the two decoders."""
    for dtype in FORMATS:
        for quant_type in ("nf4", "fp4"):
            for blocksize in FOUR_BIT_BLOCKSIZES:
                yield from _dequantize_4bit(quant_type, blocksize, dtype)
        for map_name in CODE_MAPS:
            sizes = (1, 7, 32, 64, 256, 4096) if map_name == "dynamic-signed" else (256,)
            for blocksize in sizes:
                yield from _dequantize_blockwise(map_name, blocksize, dtype)
