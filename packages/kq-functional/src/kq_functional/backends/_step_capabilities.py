"""What a backend declares that computes the optimizer steps by every rule and rounding."""

from __future__ import annotations

from collections.abc import Iterator

from ..formats import FLOAT_DTYPES, OPTIMIZER_BLOCKSIZE, dtype_name
from ..rules import ROUNDINGS, RULES
from .base import Capability

_NEAREST = frozenset({"nearest"})
_KINDS = (
    (frozenset(map(dtype_name, FLOAT_DTYPES)), _NEAREST),
    (frozenset({"bfloat16"}), frozenset(ROUNDINGS) - _NEAREST),
)


def step_capabilities(devices: frozenset[str] | None) -> Iterator[Capability]:
    """Yield the capabilities of both steps; in 8 bits a rule needs a state."""
    coded = frozenset(name for name, rule in RULES.items() if rule.signed)
    blocksizes = frozenset({OPTIMIZER_BLOCKSIZE})
    for dtypes, roundings in _KINDS:
        for op, sizes, rules in (
            ("optimizer_step_8bit", blocksizes, coded),
            ("optimizer_step_32bit", None, frozenset(RULES)),
        ):
            yield Capability(op, dtypes, devices, frozenset(), sizes, rules, roundings)
