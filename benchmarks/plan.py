"""How much a run measures: sizes, rounds and times."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.harness import Pace

MEBI = 2**20


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        isas: instruction sets of kq that are measured, each a contender of its own.
        shrink: divisor of the sizes in the tables of `subjects`; 1 for figures.
        working_set: bytes over which a contender's operands are rotated. More than the largest
            cache, so that each call finds them in memory.
        probe: bytes of one operand of the bandwidth probes.
        matmul: rows and columns of the operands of the arithmetic probes.
        pace: how long a sample of a contender lasts, and how often slow ones are called.
        budget: seconds for all rounds of a row, without what is slow.
        fewest: lower limit of the number of rounds, whatever the budget.
        most: upper limit of the number of rounds.
    """

    isas: tuple[str, ...]
    shrink: int
    working_set: int
    probe: int
    matmul: int
    pace: Pace
    budget: float
    fewest: int
    most: int

    def size(self, length: int) -> int:
        """The length that this run uses for a length in a table.

        What is beyond a multiple of 64 remains: it is why the length is in the table.
        """
        blocks, rest = divmod(length, 64)
        return -(-blocks // self.shrink) * 64 + rest

    @property
    def at_rest(self) -> Plan:
        """The same with a single copy of the operands, which the caches may keep."""
        return replace(self, working_set=1)

    def rounds(self, seconds: float) -> int:
        """How many rounds of so many seconds fit the budget; without any, those of what is slow."""
        if not seconds:
            return self.pace.few
        return min(max(int(self.budget / seconds), self.fewest), self.most)


def full(isas: tuple[str, ...]) -> Plan:
    """Figures worth keeping, in a few minutes on a quiet machine."""
    return Plan(
        isas,
        shrink=1,
        working_set=128 * MEBI,
        probe=128 * MEBI,
        matmul=1024,
        pace=Pace(sample=0.02, patience=0.3, few=3),
        budget=2.5,
        fewest=5,
        most=15,
    )


def quick(isas: tuple[str, ...]) -> Plan:
    """Every row on small operands: shows that all contenders run and are right, not how fast."""
    return Plan(
        isas,
        shrink=16,
        working_set=MEBI,
        probe=MEBI,
        matmul=256,
        pace=Pace(sample=0.001, patience=0.3, few=1),
        budget=0.1,
        fewest=3,
        most=3,
    )
