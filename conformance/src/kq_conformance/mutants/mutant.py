"""What a mutant is, and how one is registered."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kq_conformance.floats import Float64
from kq_conformance.reference_backend import ReferenceBackend
from kq_conformance.runner import Verdict

__all__ = ["REGISTERED", "Mutant", "States", "Stepped", "killed_by"]

States = tuple[Float64, ...]
Stepped = tuple[Float64, States]  # a parameter and its states


@dataclass(frozen=True)
class Mutant:
    """A broken backend.

    Attributes:
        made: its class; the docstring says what the mistake is.
        killer: id of the case that must catch it.
        verdict: what that case must say.
        ledger: entry of the defect ledger that it stands for, such as "D10"; empty if none.
    """

    made: type[ReferenceBackend]
    killer: str
    verdict: Verdict
    ledger: str

    @property
    def name(self) -> str:
        """The name of the class in words, joined by hyphens."""
        words = "".join(f"-{c.lower()}" if c.isupper() else c for c in self.made.__name__)
        return words.strip("-")

    @property
    def mistake(self) -> str:
        """What is wrong with it: the docstring as one line."""
        return " ".join((self.made.__doc__ or "").split())

    @property
    def topic(self) -> str:
        """What kind of mistake it is: the first line of its module."""
        return (sys.modules[self.made.__module__].__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def backend(self) -> str:
        """The name by which a worker loads it."""
        return _address(self.made)

    @property
    def body(self) -> str:
        """The name of the same backend without the mistake."""
        return _address(self.made.__bases__[0])


def _address(made: type) -> str:
    return f"{made.__module__}:{made.__name__}"


REGISTERED: list[Mutant] = []

_Made = TypeVar("_Made", bound=type[ReferenceBackend])


def killed_by(
    case: str, verdict: Verdict = Verdict.FAIL, ledger: str = ""
) -> Callable[[_Made], _Made]:
    """Register a backend with the case that catches it.

    Args:
        case: id of the case.
        verdict: what the case must say.
        ledger: entry of the defect ledger.
    """

    def register(made: _Made) -> _Made:
        REGISTERED.append(Mutant(made, case, verdict, ledger))
        return made

    return register
