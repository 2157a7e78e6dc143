"""A case: one addressable question to a backend."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases.draw import Draw
from kq_conformance.subject import Outputs, Subject

__all__ = ["Case", "Demand", "Mode", "Problem", "Profile"]


class Profile(IntEnum):
    """How much is asked; each profile contains the ones below it. Only CORE and FULL certify."""

    QUICK = 0
    CORE = 1
    FULL = 2


class Mode(IntEnum):
    """What is compared."""

    VALUES = 0  # results with the reference
    REPEAT = 1  # two runs with each other, bit for bit
    THREADS = 2  # runs with different numbers of threads with each other, bit for bit


@dataclass(frozen=True)
class Demand:
    """What a backend must have declared for a case to apply to it.

    Attributes:
        op: name of the operation.
        dtype: type of the unquantized tensor.
        quant_type: "nf4" or "fp4", or None where it does not apply.
        blocksize: block size, or None where it does not apply.
        rule: update rule of an optimizer, or None.
    """

    op: str
    dtype: str
    quant_type: str | None = None
    blocksize: int | None = None
    rule: str | None = None


class Problem(Protocol):
    """Inputs of one call, and what its results may be."""

    def call(self, subject: Subject) -> Outputs:
        """Run the backend."""

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """Compare the results with what the bounds allow."""


@dataclass(frozen=True)
class Case:
    """One addressable question.

    Attributes:
        id: address such as "linear_4bit/nf4/b64/float32/m16-n48-k130/bias/nested".
        profile: the smallest profile that contains it.
        demand: what the backend must have declared.
        make: builds the inputs from a stream of random numbers.
        mode: what is compared.
    """

    id: str
    profile: Profile
    demand: Demand
    make: Callable[[Draw], Problem]
    mode: Mode = Mode.VALUES

    def problem(self, seed: int) -> Problem:
        """The inputs: a function of the id and the seed alone, on any machine."""
        digest = hashlib.sha256(f"{self.id}#{seed}".encode()).digest()
        return self.make(Draw(int.from_bytes(digest[:16], "little")))
