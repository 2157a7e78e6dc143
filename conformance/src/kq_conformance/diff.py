"""What changed from one report to a later one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kq_conformance.runner import Verdict

__all__ = ["Change", "Comparison", "Growth", "compare"]

_OUTCOME = ("passed", "certifies", "waived")


@dataclass(frozen=True)
class Change:
    """A case whose verdict is another one, or the same but for a waiver.

    Attributes:
        case: its id.
        old: its verdict; empty if it was not asked.
        new: its verdict; empty if it is not asked any more.
        waived: whether a waiver covered it, then and now.
    """

    case: str
    old: str
    new: str
    waived: tuple[bool, bool] = (False, False)

    @property
    def worse(self) -> bool:
        """True if it passed and does not any longer, or fails and did not."""
        if not self.old:
            return False
        lost = self.old == Verdict.PASS and self.new != Verdict.PASS
        return lost or (bool(self.new) and _acceptable(self.old) and not _acceptable(self.new))


@dataclass(frozen=True)
class Growth:
    """A case that still passes, nearer to its bound."""

    case: str
    old: float
    new: float


@dataclass(frozen=True)
class Comparison:
    """All differences of two reports.

    Attributes:
        conditions: what was not the same about the two runs: old and new value by name, empty
            where there is none.
        outcome: "passed", "certifies" and "waived" where they are not the same, old and new.
        verdicts: changes of verdict, those for the worse first.
        waivers: cases with the same verdict that are waived now and were not, or were and are not.
        gone: cases that are not asked any more.
        added: cases that were not asked.
        growths: cases whose tightness grew, the largest factor first.
        incomparable: why tightness cannot be compared; empty if it can.
    """

    conditions: Mapping[str, tuple[str, str]]
    outcome: Mapping[str, tuple[bool, bool]]
    verdicts: Sequence[Change]
    waivers: Sequence[Change]
    gone: Sequence[Change]
    added: Sequence[Change]
    growths: Sequence[Growth]
    incomparable: str

    @property
    def worse(self) -> Sequence[Change]:
        """What got worse: cases that passed and do not any longer, or new failures."""
        return [each for each in (*self.verdicts, *self.gone) if each.worse]


def _acceptable(verdict: str) -> bool:
    return Verdict(verdict).acceptable


def compare(old: dict[str, Any], new: dict[str, Any], factor: float = 2.0) -> Comparison:
    """Compare two reports.

    Args:
        old: the earlier report.
        new: the later one.
        factor: by how much a tightness must have grown to be told.

    Raises:
        ValueError: if the factor is under 1 or not finite.
    """
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor must be at least 1 and finite, got {factor}")
    before = {case["id"]: case for case in old["cases"]}
    after = {case["id"]: case for case in new["cases"]}
    both = [(before[id_], after[id_]) for id_ in before if id_ in after]
    changes = [_change(a, b) for a, b in both]
    verdicts = [each for each in changes if each.old != each.new]
    differing = [name for name in ("seed", "rules") if old["run"][name] != new["run"][name]]
    return Comparison(
        _conditions(old, new),
        {name: (old[name], new[name]) for name in _OUTCOME if old[name] != new[name]},
        sorted(verdicts, key=lambda each: not each.worse),
        [each for each in changes if each.old == each.new and each.waived[0] != each.waived[1]],
        [_change(case, None) for id_, case in before.items() if id_ not in after],
        [_change(None, case) for id_, case in after.items() if id_ not in before],
        [] if differing else _growths(both, factor),
        f"the runs have other {' and '.join(differing)}" if differing else "",
    )


def _change(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Change:
    """One case of two reports; None where it was not asked."""
    a, b = old or {}, new or {}
    waived = ("waived" in a, "waived" in b)
    return Change((a or b)["id"], a.get("verdict", ""), b.get("verdict", ""), waived)


def _growths(both: Sequence[tuple[dict[str, Any], dict[str, Any]]], factor: float) -> list[Growth]:
    """Cases that passed both times, with a tightness that grew by more than the factor."""
    found = [
        Growth(a["id"], float(a["tightness"]), float(b["tightness"]))
        for a, b in both
        if a["verdict"] == b["verdict"] == Verdict.PASS and "rule" in a and "rule" in b
    ]
    grown = [each for each in found if each.old > 0 and each.new > factor * each.old]
    return sorted(grown, key=lambda each: each.old / each.new)


def _conditions(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What the two runs do not have in common, apart from date, time and number of workers."""
    told = [_told(each) for each in (old, new)]
    names = dict.fromkeys(name for each in told for name in each)
    pairs = {name: (told[0].get(name, ""), told[1].get(name, "")) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def _told(document: dict[str, Any]) -> dict[str, str]:
    backend, run = document["backend"], document["run"]
    told = {
        "suite version": document["suite"]["version"],
        "format version": document["format_version"],
        "backend": backend["name"],
        "backend version": backend["version"],
        **{f"backend {name}": value for name, value in backend["description"].items()},
        **{name: run[name] for name in ("profile", "select", "seed", "rules", "device")},
        **document["environment"],
    }
    return {name: str(value) for name, value in told.items()}
