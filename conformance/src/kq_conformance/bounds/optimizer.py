"""How far one optimizer step may be from the float64 step taken from the identical state.

Forward error analysis, element by element, as interval arithmetic: each line below is one line of
the update, and `rounded(n)` says how many float32 roundings the usual ways to write it commit.
Constants (β, 1 − β, η√(1−β₂ᵗ)/(1−β₁ᵗ), ...) are taken as computed in double precision and rounded
once: `1.0f - beta2` in float32 would be wrong by up to 1000 u for β₂ = 0.999, and is not granted.
"""

from dataclasses import dataclass

import numpy as np

from kq_conformance.bounds.acceptance import Interval, Rule
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.floats import Float64
from kq_conformance.reference import Hyper, block_absmax

__all__ = ["Step", "accept_moment", "accept_moment_absmax", "accept_param", "enclose_adam"]

_SOURCE = "conformance/README.md, 'Bounds'; Higham, ASNA, 2nd ed., section 3.1"

PARAM = Rule(
    "adam, parameter",
    "p(1 - ηλ) - (η√c₂/c₁) · m / (√v + ε√c₂) in float32 intervals, rounded once to its type",
    _SOURCE,
)
MOMENT = Rule(
    "adam, moment",
    "β₁m + (1-β₁)g within 3 roundings of each term; β₂v + (1-β₂)g² within 4; no rounding of a sum"
    " with zero; Inf beyond the largest float32",
    _SOURCE,
)
MOMENT_ABSMAX = Rule(
    "adam, scale of a moment",
    "between the largest lower end and the largest upper end of |moment| in the block",
    _SOURCE,
)


@dataclass(frozen=True, eq=False)
class Step:
    """What one step may leave behind: parameter (not yet rounded), first and second moment."""

    p: Enclosure
    m: Enclosure
    v: Enclosure


def enclose_adam(
    p: Float64, g: Float64, m: Enclosure, v: Enclosure, step: int, hyper: Hyper
) -> Step:
    """All results that a float32 implementation of the step may produce.

    Args:
        p: float64 [n], parameter, exact.
        g: float64 [n], gradient, exact.
        m: first moment; a decoded 8-bit state carries the rounding of its product.
        v: second moment.
        step: t, from 1.
        hyper: hyperparameters.
    """
    gradient = Enclosure.of(-g if hyper.maximize else g)
    param = Enclosure.of(p)
    if hyper.weight_decay and hyper.decoupled:
        param = param.by_constant(1 - hyper.lr * hyper.weight_decay)
    elif hyper.weight_decay:
        gradient = gradient.plus(param.by_constant(hyper.weight_decay))
    new_m = m.by_constant(hyper.beta1).plus(gradient.by_constant(1 - hyper.beta1))
    new_v = v.by_constant(hyper.beta2).plus(_squared(gradient, 1 - hyper.beta2))

    correction1, correction2 = 1 - hyper.beta1**step, np.sqrt(1 - hyper.beta2**step)
    # √v and ε√c₂, or √v / √c₂ and ε: the root, the constant, the division or product; the sum.
    root = new_v.root().rounded(3)
    floor = Enclosure.of(np.full(p.shape, hyper.eps * correction2)).rounded(2)
    denominator = root.plus(floor)
    # Step size (three roundings if put together in float32), its product with m, the quotient.
    # Roundings come where they happen: a product that is subnormal is divided afterwards.
    size = hyper.lr * correction2 / correction1
    update = new_m.scaled(size).rounded(4).over(denominator).rounded()
    return Step(param.plus(-update), new_m, new_v)


def _squared(gradient: Enclosure, factor: float) -> Enclosure:
    """(1 − β₂)g²: factor, square and product are rounded; factor and g may also meet first.

    The square may overflow before the factor makes it small again.
    """
    square = gradient.squared()
    product = square.scaled(factor).rounded(3)
    overflow = np.isinf(square.rounded().high)
    return Enclosure(product.low, np.where(overflow, np.inf, product.high))


def accept_param(quantity: str, expected: Float64, step: Step, dtype: str) -> Interval:
    """The new parameter, rounded once to its type."""
    return Interval.rounded(quantity, expected, (step.p.low, step.p.high), dtype, PARAM)


def accept_moment(quantity: str, expected: Float64, moment: Enclosure) -> Interval:
    """A moment kept in float32."""
    return Interval(quantity, expected, moment.low, moment.high, MOMENT)


def accept_moment_absmax(
    quantity: str, expected: Float64, moment: Enclosure, blocksize: int
) -> Interval:
    """The scale of each block of a moment kept in 8 bits."""
    with np.errstate(invalid="ignore"):
        around = (moment.low <= 0) & (moment.high >= 0)
        ends = np.abs(moment.low), np.abs(moment.high)
        smallest = np.where(around, 0.0, np.minimum(*ends))
    low, high = (
        block_absmax(end.reshape(1, -1), blocksize).reshape(-1)
        for end in (smallest, np.maximum(*ends))
    )
    return Interval(quantity, expected, low, high, MOMENT_ABSMAX)
