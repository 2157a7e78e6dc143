"""Cases of quantize_4bit and quantize_blockwise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds import Judgement, Strictness, accept_absmax, accept_codes
from kq_conformance.cases import matrices
from kq_conformance.cases.case import Case, Demand, Mode, Problem, Profile
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.several import Several
from kq_conformance.floats import FORMATS, Array, Float64, Stored, store, values_of
from kq_conformance.reference import (
    FOUR_BIT_BLOCKSIZES,
    Codebook,
    block_absmax,
    codebook_4bit,
    codebook_8bit,
    spread,
    unpack,
)
from kq_conformance.subject import Outputs, Subject

__all__ = ["quantizer_cases"]


def _judge(
    x: Float64, blocksize: int, book: Codebook, absmax: Stored, codes: Array, strictness: Strictness
) -> list[Judgement]:
    """Scales to the bit; codes by the rule. Columns beyond x are padding, with the code of zero."""
    expected = block_absmax(x, blocksize)
    padding = ((0, 0), (0, codes.shape[1] - x.shape[1]))
    scale = np.pad(spread(expected, x.shape[1], blocksize), padding)
    return [
        accept_absmax(expected).judge(absmax),
        accept_codes("codes", np.pad(x, padding), scale, book, strictness).judge(codes),
    ]


@dataclass(frozen=True)
class Quantize4bit:
    """One call of quantize_4bit."""

    x: Stored
    quant_type: str
    blocksize: int

    def call(self, subject: Subject) -> Outputs:
        return subject.quantize_4bit(self.x, quant_type=self.quant_type, blocksize=self.blocksize)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        packed, x = outputs["packed"].bits, values_of(self.x)
        codes = unpack(packed, 2 * packed.shape[1])
        book = codebook_4bit(self.quant_type)
        return _judge(x, self.blocksize, book, outputs["absmax"], codes, strictness)


@dataclass(frozen=True)
class QuantizeBlockwise:
    """One call of quantize_blockwise."""

    x: Stored
    code: Stored
    blocksize: int

    def call(self, subject: Subject) -> Outputs:
        return subject.quantize_blockwise(self.x, self.code, blocksize=self.blocksize)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        book = codebook_8bit(values_of(self.code))
        codes = outputs["codes"].bits
        return _judge(values_of(self.x), self.blocksize, book, outputs["absmax"], codes, strictness)


def _makers(
    blocksize: int, book: Codebook, usual: bool
) -> Iterator[tuple[str, Profile, matrices.Maker]]:
    """The matrices for one block size; `usual` ones get the expensive ones in CORE."""
    costly = Profile.CORE if usual else Profile.FULL
    for name, maker in matrices.MATRICES.items():
        yield name, Profile.QUICK if usual and name == "random" else Profile.CORE, maker
    for rows, cols in ((0, 64), (3, 0), (0, 0)):
        yield f"empty-r{rows}-c{cols}", costly, matrices.empty(rows, cols)
    for cols in matrices.tail_lengths(blocksize):
        yield f"tail-c{cols}", costly, matrices.random(3, cols)
    if blocksize > 1:
        yield "midpoints", Profile.CORE, matrices.midpoints(book)


def _sweeps(dtype: str, profile: Profile) -> Iterator[tuple[str, Profile, matrices.Maker]]:
    """All numbers of a 16-bit type."""
    if FORMATS[dtype].precision < 24:
        yield "sweep", profile, matrices.natural_sweep
        yield "sweep-anchored", profile, matrices.anchored_sweep


def _sizes(dtype: str) -> Iterator[tuple[str, Profile, matrices.Maker]]:
    """More columns, and more rows, than 16 bits can count."""
    profile = Profile.FULL if dtype == "float16" else Profile.CORE
    yield "long-row", profile, matrices.random(1, matrices.LONG)
    yield "many-rows", profile, matrices.random(matrices.MANY, 1)


def _quantize_4bit(quant_type: str, blocksize: int, dtype: str) -> Iterator[Case]:
    prefix = f"quantize_4bit/{quant_type}/b{blocksize}/{dtype}"
    demand = Demand("quantize_4bit", dtype, quant_type, blocksize)

    def problem(draw: Draw, maker: matrices.Maker) -> Quantize4bit:
        return Quantize4bit(maker(draw, dtype, blocksize), quant_type, blocksize)

    def case(name: str, profile: Profile, maker: matrices.Maker, mode: Mode = Mode.VALUES) -> Case:
        return Case(f"{prefix}/{name}", profile, demand, lambda draw: problem(draw, maker), mode)

    usual = blocksize == 64
    for name, profile, maker in _makers(blocksize, codebook_4bit(quant_type), usual):
        yield case(name, profile, maker)
    yield from _every_tail(prefix, demand, problem, blocksize)
    for name, profile, maker in _sweeps(dtype, Profile.CORE if usual else Profile.FULL):
        yield case(name, profile, maker)
    if usual:
        yield from _behavior(case, dtype)


def _quantize_blockwise(map_name: str, blocksize: int, dtype: str) -> Iterator[Case]:
    prefix = f"quantize_blockwise/{map_name}/b{blocksize}/{dtype}"
    demand = Demand("quantize_blockwise", dtype, None, blocksize)
    code = CODE_MAPS[map_name]()

    def problem(draw: Draw, maker: matrices.Maker) -> QuantizeBlockwise:
        return QuantizeBlockwise(maker(draw, dtype, blocksize), store(code, "float32"), blocksize)

    def case(name: str, profile: Profile, maker: matrices.Maker, mode: Mode = Mode.VALUES) -> Case:
        return Case(f"{prefix}/{name}", profile, demand, lambda draw: problem(draw, maker), mode)

    usual = blocksize == 256 and map_name == "dynamic-signed"
    for name, profile, maker in _makers(blocksize, codebook_8bit(code), usual):
        yield case(name, profile, maker)
    yield from _every_tail(prefix, demand, problem, blocksize)
    if blocksize > 1:
        # Each codebook at the default block size.
        for name, profile, maker in _sweeps(
            dtype, Profile.CORE if blocksize == 256 else Profile.FULL
        ):
            yield case(name, profile, maker)
    if usual:
        yield from _behavior(case, dtype)


def _every_tail(
    prefix: str,
    demand: Demand,
    problem: Callable[[Draw, matrices.Maker], Problem],
    blocksize: int,
) -> Iterator[Case]:
    """Rows of each length, in one case."""
    lengths = matrices.every_length(blocksize)

    def make(draw: Draw) -> Several:
        return Several({f"c{cols}": problem(draw, matrices.random(3, cols)) for cols in lengths})

    if lengths:
        yield Case(f"{prefix}/every-tail", Profile.FULL, demand, make)


def _behavior(case: Callable[..., Case], dtype: str) -> Iterator[Case]:
    """Large sizes; the same question twice and with several numbers of threads; placements."""
    for name, profile, maker in _sizes(dtype):
        yield case(name, profile, maker)
    for mode in (Mode.REPEAT, Mode.THREADS):  # enough rows to share out
        yield case(mode.value, Profile.CORE, matrices.odd(37), mode)
    for mode in (Mode.BEFORE, Mode.OFFSET, Mode.STRIDED):
        yield case(mode.value, Profile.CORE, matrices.odd(5), mode)


def quantizer_cases() -> Iterator[Case]:
    """All cases of the two quantizers."""
    for dtype in FORMATS:
        for quant_type in ("nf4", "fp4"):
            for blocksize in FOUR_BIT_BLOCKSIZES:
                yield from _quantize_4bit(quant_type, blocksize, dtype)
        for map_name in CODE_MAPS:
            # 1 and 7: any number is a block size; 4096: the default of bitsandbytes.
            sizes = (1, 7, 32, 64, 256, 4096) if map_name == "dynamic-signed" else (256,)
            for blocksize in sizes:
                yield from _quantize_blockwise(map_name, blocksize, dtype)
