"""Waivers: failures that a backend's author knows of, as data, with a reason and an end.

A file holds a list in TOML:

    [[waiver]]
    select = "linear_4bit/*/bfloat16/*"   # glob over case ids
    reason = "sums are kept in bfloat16 until the next driver"
    link = "https://example.org/issues/17"
    expires = 2027-01-31

A waived failure is still shown as what it is. It no longer fails the run, and the run is called
"passed with waivers". After its day a waiver does nothing.
"""

import datetime
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kq_conformance.runner import Finding

__all__ = ["Waiver", "find_waiver", "load_waivers", "waiver_state"]

_TEXTS = ("select", "reason", "link")


@dataclass(frozen=True)
class Waiver:
    """One entry of the file.

    Attributes:
        select: glob over case ids.
        reason: why the failure is accepted.
        link: where it is followed up.
        expires: the last day on which the waiver holds.
    """

    select: str
    reason: str
    link: str
    expires: datetime.date

    def covers(self, finding: Finding, today: datetime.date) -> bool:
        """Whether this excuses a failure."""
        bad = not finding.verdict.acceptable
        return bad and today <= self.expires and fnmatchcase(finding.case_id, self.select)


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """Read a file.

    Raises:
        ValueError: naming the file, the entry and the key that is missing, wrong or unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    entries = document.pop("waiver", [])
    if document or not isinstance(entries, list):
        unknown = ", ".join(document) or "waiver, which is no list"
        raise ValueError(f"{path}: only [[waiver]] entries are accepted, got {unknown}")
    return tuple(_waiver(entry, f"{path}, waiver {i}") for i, entry in enumerate(entries, 1))


def _waiver(entry: Any, place: str) -> Waiver:
    keys = {*_TEXTS, "expires"}
    if not isinstance(entry, dict) or entry.keys() != keys:
        raise ValueError(f"{place}: must have the keys {', '.join(sorted(keys))} and no other")
    for key in _TEXTS:
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise ValueError(f"{place}: {key} must be a text that is not empty, got {entry[key]!r}")
    if not entry["link"].startswith(("http://", "https://")):
        raise ValueError(
            f"{place}: link must begin with https:// or http://, got {entry['link']!r}"
        )
    expires = entry["expires"]
    if not isinstance(expires, datetime.date) or isinstance(expires, datetime.datetime):
        raise ValueError(f"{place}: expires must be a date such as 2027-01-31, got {expires!r}")
    return Waiver(**entry)


def find_waiver(waivers: Iterable[Waiver], finding: Finding, today: datetime.date) -> Waiver | None:
    """The first waiver that excuses a failure."""
    return next((each for each in waivers if each.covers(finding, today)), None)


def waiver_state(
    waiver: Waiver, findings: Sequence[Finding], today: datetime.date
) -> tuple[str, int]:
    """Return "used", "unused" or "expired", and how many failures the waiver excuses."""
    if today > waiver.expires:
        return "expired", 0
    covered = sum(waiver.covers(finding, today) for finding in findings)
    return ("used" if covered else "unused"), covered
