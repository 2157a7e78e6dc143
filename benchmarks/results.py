"""From samples to figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.harness import ARITHMETIC, Probe, Row, Verdict


@dataclass(frozen=True)
class Result:
    """What one contender did in a row.

    Attributes:
        family: as in `Contender`.
        path: as in `Contender`.
        seconds: median time of a call.
        spread: distance of the quartiles, as a share of the median.
        fraction: share of the machine's limit: the time that the limits of the row allow, divided
            by the median; 0 in a row without limits.
        bound: the limit that allows least, or nothing.
        correct: whether the result was right.
        detail: what the check found.
        calls: calls in a sample.
        traffic: as in `Contender`.
    """

    family: str
    path: str
    seconds: float
    spread: float
    fraction: float
    bound: str
    correct: bool
    detail: str
    calls: int
    traffic: int = 0


@dataclass(frozen=True)
class Record:
    """A measured row.

    Attributes:
        subject: as in `Row`.
        work: as in `Row`.
        rounds: number of interleaved rounds, of those that are not slow.
        results: one for each contender.
        limits: bytes or operations per second, by limit: the fastest probe's.
        flops: as in `Row`.
        rows: as in `Row`.
        series: as in `Row`.
    """

    subject: str
    work: str
    rounds: int
    results: list[Result]
    limits: dict[str, float]
    flops: int = 0
    rows: int = 0
    series: str = ""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Record:
        """The inverse of `to_json`."""
        return cls(**{**fields, "results": [Result(**each) for each in fields["results"]]})

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dictionaries."""
        return asdict(self)

    def best(self, family: str) -> Result | None:
        """A family's result by its fastest path that is right, or its fastest if none is right."""
        of_family = [each for each in self.results if each.family == family]
        return min(of_family, key=lambda each: (not each.correct, each.seconds), default=None)


def spread(samples: Sequence[float]) -> float:
    """Distance of the quartiles, as a share of the median."""
    if len(samples) < 2:
        return 0.0
    lower, middle, upper = quantiles(samples, n=4, method="inclusive")
    return (upper - lower) / middle


def speedup(ours: Result, theirs: Result) -> float:
    """How many times faster ours is: the ratio of the medians."""
    return theirs.seconds / ours.seconds


def fastest(probes: Sequence[Probe], medians: Sequence[float]) -> dict[str, float]:
    """Rate of each limit: of its probes, the one that moved or computed most per second."""
    rates: dict[str, float] = {}
    for probe, seconds in zip(probes, medians, strict=True):
        rates[probe.limit] = max(rates.get(probe.limit, 0.0), probe.amount / seconds)
    return rates


def evaluate(
    row: Row,
    samples: Sequence[Sequence[float]],
    calls: Sequence[int],
    verdicts: Sequence[Verdict],
) -> Record:
    """Figures of a row.

    Args:
        row: what was measured.
        samples: seconds per call, one list for each contender and then each probe of the row.
        calls: calls in a sample, in the same order.
        verdicts: one for each contender.
    """
    count = len(row.contenders)
    medians = [median(each) for each in samples]
    rates = fastest(row.probes, medians[count:])
    results = []
    for i, (contender, verdict) in enumerate(zip(row.contenders, verdicts, strict=True)):
        allowed = {
            limit: (row.flops if limit in ARITHMETIC else contender.traffic) / rate
            for limit, rate in rates.items()
        }
        bound = max(allowed, key=allowed.__getitem__, default="")
        results.append(
            Result(
                contender.family,
                contender.path,
                medians[i],
                spread(samples[i]),
                allowed.get(bound, 0.0) / medians[i],
                bound,
                *verdict,
                calls[i],
                contender.traffic,
            )
        )
    rounds = max(map(len, samples))
    return Record(row.subject, row.work, rounds, results, rates, row.flops, row.rows, row.series)
