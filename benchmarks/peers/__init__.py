"""The contenders: one module for each peer, with the same functions.

Each function takes a work description of `benchmarks.work` and the plan, and returns contenders.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

from benchmarks.harness import Contender
from benchmarks.plan import Plan

# Module of this package, and the distribution that it measures: left out if not installed.
_PEERS = {"kq": "kq_functional", "dense": "torch", "bnb": "bitsandbytes"}

Work = TypeVar("Work")


def gather(function: str, work: Work, plan: Plan) -> list[Contender]:
    """All contenders for some work.

    Args:
        function: name of the function in each peer's module.
        work: its first argument.
        plan: its second.
    """
    found: list[Contender] = []
    for module, needed in _PEERS.items():
        if find_spec(needed):
            found += getattr(import_module(f"{__name__}.{module}"), function)(work, plan)
    return found
