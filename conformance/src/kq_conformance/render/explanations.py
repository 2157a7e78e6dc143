"""Why some bounds are far from every backend's error: sentences for cases, kept as data."""

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any

__all__ = ["LOOSE", "Explanation", "load_explanations", "parse_explanations"]

# A kernel a thousand times less accurate than the best one would still pass such a case: the bound
# may be too wide to catch a sloppy one, and somebody must have thought about why it is not.
LOOSE = 1e-3

_FILE = "explanations.toml"


@dataclass(frozen=True)
class Explanation:
    """One entry of the file.

    Attributes:
        select: glob over case ids.
        below: the tightness under which it holds.
        because: the reason.
    """

    select: str
    below: float
    because: str

    def covers(self, case_id: str, tightness: float) -> bool:
        """Whether it speaks of this case."""
        return tightness < self.below and fnmatchcase(case_id, self.select)


def load_explanations() -> tuple[Explanation, ...]:
    """The explanations that are shipped."""
    return parse_explanations(files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))


def parse_explanations(text: str) -> tuple[Explanation, ...]:
    """Read a list of tables `[[explanation]]` with `select`, `below` and `because`.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    document = tomllib.loads(text)
    if unknown := sorted(set(document) - {"explanation"}):
        raise ValueError(f"{_FILE} may hold [[explanation]] only, got {unknown[0]!r}")
    entries = document.get("explanation", [])
    return tuple(_parse(number, entry) for number, entry in enumerate(entries, 1))


def _parse(number: int, entry: dict[str, Any]) -> Explanation:
    where = f"{_FILE}, explanation {number}"
    if set(entry) != {"select", "below", "because"}:
        raise ValueError(f"{where} must have select, below and because, got {sorted(entry)}")
    select, below, because = entry["select"], entry["below"], entry["because"]
    for name, value in {"select": select, "because": because}.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: {name} must be a text that is not empty, got {value!r}")
    if isinstance(below, bool) or not isinstance(below, int | float) or not 0 < below <= LOOSE:
        raise ValueError(f"{where}: below must be in (0, {LOOSE:g}], got {below!r}")
    return Explanation(select, float(below), because)
