"""A case: one addressable question to a backend."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases.draw import Draw
from kq_conformance.floats import FORMATS
from kq_conformance.subject import Outputs, Subject

__all__ = ["Address", "Case", "Demand", "Mode", "Problem", "Profile", "address"]


class Profile(IntEnum):
    """How much is asked; each profile contains the ones below it. Only CORE and FULL certify."""

    QUICK = 0
    CORE = 1
    FULL = 2


class Mode(StrEnum):
    """What is asked. Each mode but VALUES and REFUSAL is the last part of the ids of its cases."""

    VALUES = "values"  # results compared with the reference; inputs and outputs end at guard pages
    BEFORE = "before"  # the same with the guard pages before the tensors
    OFFSET = "offset"  # the same with every tensor one element off a 64-byte boundary
    STRIDED = "strided"  # the same with rows of the unquantized input that lie apart
    REPEAT = "repeat"  # two runs compared with each other, bit for bit
    THREADS = "threads"  # runs with different numbers of threads, bit for bit
    REFUSAL = "refusal"  # a call that must raise a refusal and write nothing


@dataclass(frozen=True)
class Demand:
    """What a backend must have declared for a case to apply to it.

    Attributes:
        op: name of the operation.
        dtype: type of the unquantized tensor; "int8" where there is none.
        quant_type: "nf4" or "fp4", or None where it does not apply.
        blocksize: block size, or None where it does not apply.
        rule: update rule of an optimizer, or None.
        rounding: of the parameters that an optimizer steps, or None.
    """

    op: str
    dtype: str
    quant_type: str | None = None
    blocksize: int | None = None
    rule: str | None = None
    rounding: str | None = None


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
        mode: what is asked.
        memory: bytes that the tensors of the case need, where that is more than a few megabytes;
            such cases run alone, last, and with more time.
    """

    id: str
    profile: Profile
    demand: Demand
    make: Callable[[Draw], Problem]
    mode: Mode = Mode.VALUES
    memory: int = 0

    def problem(self, seed: int) -> Problem:
        """The inputs: a function of the id and the seed alone, on any machine."""
        digest = hashlib.sha256(f"{self.id}#{seed}".encode()).digest()
        return self.make(Draw(int.from_bytes(digest[:16], "little")))


class Address(NamedTuple):
    """The parts of an id.

    Attributes:
        op: name of the operation.
        format: "nf4" or "fp4", name of an 8-bit map, "int8", or update rule of an optimizer.
        blocksize: where the id names one.
        dtype: type of the unquantized tensor; "int8" where there is none.
        name: the rest.
    """

    op: str
    format: str
    blocksize: int | None
    dtype: str
    name: str


def address(case_id: str) -> Address:
    """Take an id apart: `op/format/[bN/]dtype/name`.

    Raises:
        ValueError: if it is not made like that.
    """
    op, _, rest = case_id.partition("/")
    format_, _, rest = rest.partition("/")
    size, _, after = rest.partition("/")
    sized = size.startswith("b") and size[1:].isdecimal()
    dtype, _, name = (after if sized else rest).partition("/")
    if dtype not in (*FORMATS, "int8") or not name:
        raise ValueError(f"case id must be op/format/[bN/]dtype/name, got {case_id!r}")
    return Address(op, format_, int(size[1:]) if sized else None, dtype, name)
