"""New parameters in bfloat16 that are not rounded to the nearest.

The parameter before its rounding is some float32 number in the enclosure. Both roundings are
monotone and pass over no number, so that the ends of what may be stored are the roundings of the
outermost float32 numbers inside.
"""

import numpy as np

from kq_conformance.bounds.acceptance import Bits, Interval, Judgement, Rule
from kq_conformance.bounds.optimizer.accept import SOURCE
from kq_conformance.bounds.optimizer.step import Step
from kq_conformance.floats import BFLOAT16, FLOAT32, Array, Float64, Stored
from kq_conformance.reference import join_master, round_stochastic, split_master

__all__ = ["judge_corrected", "judge_mean", "judge_stochastic"]

STOCHASTIC = Rule(
    "parameter, stochastic rounding",
    "(bits + random) >> 16 of some float32 number in the enclosure of the new parameter, with the"
    " random number of the element",
    SOURCE,
)
MASTER = Rule(
    "master weight",
    "some float32 number in the enclosure of the new parameter, rounded to 24 bits",
    SOURCE,
)
SPLIT = Rule(
    "master weight, parts",
    "bfloat16 nearest to the master weight, and what is missing as a correction; 0 beside NaN and"
    " Inf",
    SOURCE,
    exact=True,
)
_DEVIATIONS = 5.0  # beyond them once in 1.7 million by chance; the cases are the same in every run
MEAN = Rule(
    "stochastic rounding, mean",
    "of numbers that are known exactly, as many are rounded up as the sum of their chances says,"
    " within five standard deviations",
    SOURCE,
)


def _inner(step: Step) -> tuple[Float64, Float64]:
    """The smallest and the largest float32 number in each enclosure."""
    low, high = FLOAT32.round(step.p.low), FLOAT32.round(step.p.high)
    return (
        np.where(low < step.p.low, FLOAT32.step(low, +1), low),
        np.where(high > step.p.high, FLOAT32.step(high, -1), high),
    )


def judge_stochastic(
    quantity: str, expected: Float64, step: Step, words: Array, got: Float64
) -> Judgement:
    """The new parameter, with the random word of each element."""
    low, high = (round_stochastic(end, words) for end in _inner(step))
    shown = round_stochastic(FLOAT32.round(expected), words)
    return Interval(quantity, shown, low, high, STOCHASTIC).judge(got)


def judge_mean(quantity: str, exact: Float64, got: Float64) -> Judgement:
    """How many of the float32 numbers `exact` were rounded away from zero: as many as they should.

    Elements that bfloat16 holds exactly have no choice.
    """
    bits = FLOAT32.encode(exact)
    chance = (bits & np.uint32(0xFFFF)) / 2.0**16
    up = BFLOAT16.encode(got).astype(np.int64) > (bits >> 16).astype(np.int64)
    mean, deviation = chance.sum(), np.sqrt((chance * (1 - chance)).sum())
    ends = mean - _DEVIATIONS * deviation, mean + _DEVIATIONS * deviation
    expected, low, high, counted = (np.atleast_1d(each) for each in (mean, *ends, up.sum()))
    return Interval(quantity, expected, low, high, MEAN).judge(counted)


def judge_corrected(
    quantities: tuple[str, str], expected: Float64, step: Step, got: tuple[Array, Array]
) -> list[Judgement]:
    """The new master weight, and how it is split.

    Args:
        quantities: names of the parameter and of the correction.
        expected: float64 [n], the reference's parameter.
        step: what it may be.
        got: bfloat16 bits and corrections that the backend stored.
    """
    low, high = (_master(*split_master(end)) for end in _inner(step))
    shown = _master(*split_master(FLOAT32.round(expected)))
    master = _master(*got)
    # The parts of what was stored, split once more.
    p, correction = split_master(master)
    p = np.where(np.isnan(BFLOAT16.decode(got[0])), got[0], p)  # NaN has many bit patterns
    return [
        Interval(quantities[0], shown, low, high, MASTER).judge(master),
        Bits(quantities[0], Stored(p, "bfloat16"), SPLIT).judge(Stored(got[0], "bfloat16")),
        _same(quantities[1], correction, got[1]),
    ]


def _master(p: Array, correction: Array) -> Float64:
    """The number that both parts stand for; beside NaN and Inf a correction stands for nothing."""
    alone = BFLOAT16.decode(p)
    return np.where(np.isfinite(alone), join_master(p, correction), alone)


def _same(quantity: str, expected: Array, got: Array) -> Judgement:
    """Corrections, compared as numbers."""
    wanted, found = (each.view(np.int8).astype(np.float64) for each in (expected, got))
    return Interval(quantity, wanted, wanted, wanted, SPLIT).judge(found)
