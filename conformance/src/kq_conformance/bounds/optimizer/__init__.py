"""How far one optimizer step may be from the float64 step taken from the identical state.

Forward error analysis, element by element, as interval arithmetic: each line of an enclosure is one
line of the update, and `rounded(n)` says how many float32 roundings the usual ways to write it
commit. Constants (β, 1 − β, η√(1−β₂ᵗ)/(1−β₁ᵗ), ...) are taken as computed in double precision and
rounded once: `1.0f - beta2` in float32 would be wrong by up to 1000 u for β₂ = 0.999, and is not
granted.
"""

from kq_conformance.bounds.optimizer.accept import accept_param, accept_state, accept_state_absmax
from kq_conformance.bounds.optimizer.rounding import (
    judge_corrected,
    judge_mean,
    judge_stochastic,
)
from kq_conformance.bounds.optimizer.rules import enclose_step
from kq_conformance.bounds.optimizer.step import Step

__all__ = [
    "Step",
    "accept_param",
    "accept_state",
    "accept_state_absmax",
    "enclose_step",
    "judge_corrected",
    "judge_mean",
    "judge_stochastic",
]
