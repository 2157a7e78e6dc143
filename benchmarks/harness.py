"""Interleaved timing of contenders that do the same work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Clock = Callable[[], float]
ARITHMETIC = ("compute", "int8 compute")
"""Limits of operations; all others are of bytes."""


def nothing() -> None:
    """The `prepare` of what needs no preparation."""


class Verdict(NamedTuple):
    """Whether a contender computes what it should.

    Attributes:
        correct: False marks the contender in every table.
        detail: what was found, for the report.
    """

    correct: bool
    detail: str


class Timed(Protocol):
    """What rounds are made of."""

    @property
    def run(self) -> Callable[[], object]:
        """The call that is timed."""

    @property
    def prepare(self) -> Callable[[], object]:
        """Called before each sample, outside of the timed region."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a row.

    Attributes:
        family: who does it, such as "kq avx512" or "bitsandbytes"; a column of the tables.
        path: which way of the family, where it has several; the best one represents it.
        run: the call that is timed; takes its operands in turn from several copies.
        check: judges the result; called once, after the last round.
        traffic: bytes that this way of working must at least move between processor and memory.
        prepare: called before each sample and before the check, outside of the timed region.
    """

    family: str
    run: Callable[[], object]
    check: Callable[[], Verdict]
    traffic: int
    path: str = ""
    prepare: Callable[[], object] = nothing


@dataclass(frozen=True)
class Probe:
    """A simple loop of torch that shows what the machine can do, timed in the same rounds.

    Attributes:
        limit: the limit that it measures: "read", "copy", "update" (bytes), or one of `ARITHMETIC`.
        name: what it does.
        run: the call that is timed.
        amount: bytes moved or operations done by one call.
        prepare: as in `Contender`.
    """

    limit: str
    name: str
    run: Callable[[], object]
    amount: int
    prepare: Callable[[], object] = nothing


@dataclass(frozen=True)
class Row:
    """One line of a table: the same work done by all contenders.

    Attributes:
        subject: the table.
        work: the line, unique in the table.
        contenders: who does it.
        probes: the limits that apply; of several probes of one limit the fastest counts.
        flops: operations of the work, 0 if arithmetic does not bind it.
        rows: M, the number of rows of x, where the work has one.
        series: what rows that differ in M alone have in common; a curve of the plots.
        grad: whether torch records gradients meanwhile.
    """

    subject: str
    work: str
    contenders: Sequence[Contender]
    probes: Sequence[Probe]
    flops: int = 0
    rows: int = 0
    series: str = ""
    grad: bool = False


@dataclass(frozen=True)
class Pace:
    """How often things are called.

    Attributes:
        sample: seconds that a sample should at least last; short calls are repeated within it.
        patience: seconds of a call from which it is slow.
        few: rounds that something slow takes part in: the first ones.
    """

    sample: float
    patience: float
    few: int


class Interleaved:
    """Times things in rounds A B C A B C ..., so that a drift of the machine meets all alike.

    Args:
        entries: what is timed, in this order.
        pace: how often.
        clock: returns seconds.

    Attributes:
        calls: calls in a sample, for each entry.
        samples: seconds per call, one for each entry and round.
        round_time: estimated seconds of a round, without what is slow.
    """

    def __init__(
        self, entries: Sequence[Timed], pace: Pace, clock: Clock = time.perf_counter
    ) -> None:
        self._entries = entries
        self._pace = pace
        self._clock = clock
        self._slow: list[bool] = []
        self.samples: list[list[float]] = [[] for _ in entries]
        self.calls: list[int] = []
        self.round_time = 0.0
        for entry in entries:
            once = self._estimate(entry)
            self._slow.append(once >= pace.patience)
            calls = max(1, math.ceil(pace.sample / once)) if once > 0 else 1
            self.calls.append(calls)
            if not self._slow[-1]:
                self.round_time += calls * once

    def round(self) -> None:
        """Takes one sample of each entry that is not slow, or has few samples yet."""
        for i, (entry, samples) in enumerate(zip(self._entries, self.samples, strict=True)):
            if not self._slow[i] or len(samples) < self._pace.few:
                samples.append(self._measure(entry, self.calls[i]))

    def _estimate(self, entry: Timed) -> float:
        """Seconds of a call. The first one builds caches and touches memory."""
        first = self._measure(entry, 1)
        if first >= self._pace.patience:
            return first
        once = self._measure(entry, 1)
        # A short call is easily disturbed.
        return min(once, self._measure(entry, 1)) if once < self._pace.sample else once

    def _measure(self, entry: Timed, calls: int) -> float:
        entry.prepare()
        run = entry.run
        start = self._clock()
        for _ in range(calls):
            run()
        return (self._clock() - start) / calls
