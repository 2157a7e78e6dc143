"""What a step may leave behind: the parameter, states in float32, scales of states in 8 bits."""

from kq_conformance.bounds.acceptance import Interval, Rule
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.optimizer.step import Step
from kq_conformance.floats import Float64
from kq_conformance.reference import block_absmax

__all__ = ["SOURCE", "accept_param", "accept_state", "accept_state_absmax"]

SOURCE = "conformance/README.md, 'Bounds'; Higham, ASNA, 2nd ed., section 3.1"

_LINES = "kq_conformance/bounds/optimizer/"


def _param(rule: str) -> Rule:
    return Rule(
        f"{rule}, parameter",
        f"each line of the update in float32 intervals ({_LINES}), rounded once to its type",
        SOURCE,
    )


def _state(rule: str) -> Rule:
    return Rule(
        f"{rule}, state",
        f"each line of the update in float32 intervals ({_LINES}): a constant, a product, a square"
        " and a sum err by one rounding each, a sum with zero by none; Inf beyond the largest"
        " float32",
        SOURCE,
    )


def _scale(rule: str) -> Rule:
    return Rule(
        f"{rule}, scale of a state",
        "between the largest lower end and the largest upper end of |state| in the block",
        SOURCE,
    )


def accept_param(rule: str, quantity: str, expected: Float64, step: Step, dtype: str) -> Interval:
    """The new parameter, rounded once to its type."""
    ends = (step.p.low, step.p.high)
    return Interval.rounded(quantity, expected, ends, dtype, _param(rule))


def accept_state(rule: str, quantity: str, expected: Float64, state: Enclosure) -> Interval:
    """A state kept in float32."""
    return Interval(quantity, expected, state.low, state.high, _state(rule))


def accept_state_absmax(
    rule: str, quantity: str, expected: Float64, state: Enclosure, blocksize: int
) -> Interval:
    """The scale of each block of a state kept in 8 bits."""
    low, high = (
        block_absmax(end.reshape(1, -1), blocksize).reshape(-1)
        for end in (state.magnitude.low, state.magnitude.high)
    )
    return Interval(quantity, expected, low, high, _scale(rule))
