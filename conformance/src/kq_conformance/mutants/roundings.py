"""Mistakes in how new parameters are rounded."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, FLOAT32, Array, Float64
from kq_conformance.mutants.mutant import States, killed_by
from kq_conformance.reference_backend import ReferenceBackend

__all__: list[str] = []


@killed_by("optimizer_step_8bit/adam/bfloat16/stochastic/plain")
class NeverRandom(ReferenceBackend):
    """Stochastic rounding is accepted, and rounds to the nearest."""

    def round_stochastic(self, x: Float64, words: Array) -> Float64:
        del words
        return BFLOAT16.round(x)


@killed_by("optimizer_step_32bit/sgd/bfloat16/stochastic/mean")
class TooSeldomUp(ReferenceBackend):
    """The random number has 15 bits, and reaches half of the last bit only."""

    def round_stochastic(self, x: Float64, words: Array) -> Float64:
        return super().round_stochastic(x, words & np.uint32(0x7FFF))


@killed_by("optimizer_step_32bit/lion/bfloat16/stochastic/mean")
class AlwaysTheSame(ReferenceBackend):
    """All elements of a parameter get the same random number."""

    def random_words(self, seed: int, step: int, count: int) -> Array:
        return np.repeat(super().random_words(seed, step, 1), count)


@killed_by("optimizer_step_8bit/adam/bfloat16/stochastic/plain")
class SameInEveryStep(ReferenceBackend):
    """The step number does not enter the random number."""

    def random_words(self, seed: int, step: int, count: int) -> Array:
        del step
        return super().random_words(seed, 1, count)


@killed_by("optimizer_step_32bit/adam/bfloat16/stochastic/plain")
class SeedsCutShort(ReferenceBackend):
    """Of a seed 32 bits are used."""

    def random_words(self, seed: int, step: int, count: int) -> Array:
        return super().random_words(seed & 0xFFFFFFFF, step, count)


@killed_by("optimizer_step_32bit/adam/bfloat16/stochastic/plain")
class SeedOfTheFirstParameter(ReferenceBackend):
    """All parameters of a list are rounded with the seed of the first."""

    def step_one(
        self,
        rule: str,
        i: int,
        param: Any,
        grad: Any,
        states: States,
        step: int,
        options: Mapping[str, Any],
    ) -> States:
        seeds = options["seeds"][:1] * len(options["seeds"])
        same = {**options, "seeds": seeds}
        return super().step_one(rule, i, param, grad, states, step, same)


@killed_by("optimizer_step_8bit/adam/bfloat16/stochastic/large")
class RandomNumbersRepeat(ReferenceBackend):
    """The index that a random number is made of has 16 bits."""

    def random_words(self, seed: int, step: int, count: int) -> Array:
        words = super().random_words(seed, step, min(count, 1 << 16))
        return np.resize(words, count)


@killed_by("optimizer_step_32bit/sgd/bfloat16/stochastic/largest")
class OverflowsAtRandom(ReferenceBackend):
    """What is added to the largest finite numbers makes infinities of them."""

    def round_stochastic(self, x: Float64, words: Array) -> Float64:
        bits = FLOAT32.encode(x).astype(np.uint64) + (words & np.uint32(0xFFFF))
        moved = BFLOAT16.decode(bits >> np.uint64(16) & np.uint64(0xFFFF))
        return np.where(np.isfinite(x), moved, x)


@killed_by("optimizer_step_8bit/adam/bfloat16/corrected/plain")
class CorrectionsStand(ReferenceBackend):
    """Corrections are read, and never written."""

    def step_one(
        self,
        rule: str,
        i: int,
        param: Any,
        grad: Any,
        states: States,
        step: int,
        options: Mapping[str, Any],
    ) -> States:
        before = [self.codes(each) for each in options["corrections"]]
        stepped = super().step_one(rule, i, param, grad, states, step, options)
        for tensor, correction in zip(options["corrections"], before, strict=True):
            self.write(tensor, correction)
        return stepped


@killed_by("optimizer_step_8bit/adam/bfloat16/corrected/plain")
class CorrectionsNotRead(ReferenceBackend):
    """The step begins at the bfloat16 number alone."""

    def join_master(self, p: Array, correction: Array) -> Float64:
        return super().join_master(p, 0 * correction)


@killed_by("optimizer_step_32bit/adam/bfloat16/corrected/plain")
class CorrectionsWithoutSign(ReferenceBackend):
    """A correction is read as a byte without a sign."""

    def join_master(self, p: Array, correction: Array) -> Float64:
        bits = (p.astype(np.uint32) << 16) + (correction.astype(np.uint32) << 8)
        return FLOAT32.decode(bits)


@killed_by("optimizer_step_32bit/adam/bfloat16/corrected/plain")
class MasterTruncated(ReferenceBackend):
    """The last eight bits of the master weight are cut off instead of rounded."""

    def split_master(self, x: Float64) -> tuple[Array, Array]:
        cut = FLOAT32.encode(x) & np.uint32(0xFFFFFF00)
        return super().split_master(np.where(np.isfinite(x), FLOAT32.decode(cut), x))


@killed_by("optimizer_step_32bit/adam/bfloat16/corrected/plain")
class ParameterTruncated(ReferenceBackend):
    """The bfloat16 part is cut off, so that corrections run from 0 to 255 and wrap."""

    def split_master(self, x: Float64) -> tuple[Array, Array]:
        p, correction = super().split_master(x)
        return np.where(correction > 127, p - 1, p).astype(np.uint16), correction


@killed_by("optimizer_step_8bit/adam/bfloat16/corrected/nonfinite")
class CorrectionsBesideNan(ReferenceBackend):
    """A parameter that is NaN keeps a correction."""

    def split_master(self, x: Float64) -> tuple[Array, Array]:
        p, correction = super().split_master(x)
        return p, np.where(np.isnan(x), 1, correction).astype(np.uint8)


@killed_by("optimizer_step_32bit/sgd/bfloat16/corrected/largest")
class MasterOverflows(ReferenceBackend):
    """A master weight near the largest number rounds up to infinity in bfloat16."""

    def split_master(self, x: Float64) -> tuple[Array, Array]:
        p, correction = super().split_master(x)
        over = np.isfinite(x) & np.isinf(BFLOAT16.round(x))
        infinite = BFLOAT16.encode(np.copysign(np.inf, x))
        return np.where(over, infinite, p).astype(np.uint16), np.where(over, 0, correction).astype(
            np.uint8
        )
