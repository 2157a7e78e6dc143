"""The record of a run, and the JSON document that it is written to.

The document is described by the JSON Schema in `kq_conformance.schema`.
"""

import datetime
import json
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema.exceptions import best_match

from kq_conformance import FORMAT_VERSION, __version__
from kq_conformance.bounds import Judgement, Worst
from kq_conformance.cases import Profile, address
from kq_conformance.pool import Description
from kq_conformance.runner import Finding, Settings, Verdict
from kq_conformance.schema import report_validator
from kq_conformance.waivers import Waiver, find_waiver, waiver_state

__all__ = ["SCHEMA_VERSION", "Report", "load", "to_json"]

SCHEMA_VERSION = 1

_KEPT = 60  # letters at each end of a long complaint


@dataclass(frozen=True)
class Report:
    """What was asked of which backend, and what came out.

    Attributes:
        backend: how the backend was named on the command line.
        described: what it says of itself.
        profile: which cases.
        pattern: which of them.
        settings: how they were run.
        workers: in how many processes.
        timeout: seconds that an answer could take.
        findings: one for each case, in the order of the cases.
        waivers: failures that are accepted.
        date: of the run, for the waivers.
    """

    backend: str
    described: Description
    profile: Profile
    pattern: str
    settings: Settings
    workers: int
    timeout: float
    findings: Sequence[Finding]
    waivers: Sequence[Waiver]
    date: datetime.date

    @property
    def counts(self) -> dict[str, int]:
        """Number of cases by verdict, all verdicts present."""
        counted = Counter(each.verdict for each in self.findings)
        return {str(verdict): counted[verdict] for verdict in Verdict}

    @property
    def bad(self) -> list[Finding]:
        """What failed, waived or not."""
        return [each for each in self.findings if not each.verdict.acceptable]

    def waiver(self, finding: Finding) -> Waiver | None:
        """What excuses a failure."""
        return find_waiver(self.waivers, finding, self.date)

    @property
    def passed(self) -> bool:
        """True if no failure is without a waiver, and at least one case passed."""
        excused = all(self.waiver(each) is not None for each in self.bad)
        return excused and self.counts[Verdict.PASS] > 0

    @property
    def waived(self) -> bool:
        """True if the run passed only thanks to waivers."""
        return self.passed and bool(self.bad)

    @property
    def certifies(self) -> bool:
        """True if the run says something about the whole backend: all cases of CORE or FULL."""
        return self.passed and self.profile is not Profile.QUICK and self.pattern == "*"

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` writes; its layout is versioned by `SCHEMA_VERSION`."""
        rules = {each.rule for finding in self.findings for each in finding.judgements}
        return {
            "schema_version": SCHEMA_VERSION,
            "suite": {"name": "kq-conformance", "version": __version__},
            "format_version": FORMAT_VERSION,
            "backend": {
                "argument": self.backend,
                "name": self.described.name,
                "version": self.described.version,
                "description": self.described.description,
            },
            "environment": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "system": f"{platform.system()} {platform.release()}",
                "machine": platform.machine(),
                "processor": _processor(),
                "cores": os.cpu_count() or 1,
                **self.described.environment,
            },
            "run": {
                "profile": self.profile.name.lower(),
                "select": self.pattern,
                "seed": self.settings.seed,
                "rules": self.settings.strictness.value,
                "device": self.settings.device,
                "workers": self.workers,
                "timeout": self.timeout,
                "date": self.date.isoformat(),
            },
            "passed": self.passed,
            "certifies": self.certifies,
            "waived": self.waived,
            "counts": self.counts,
            "seconds": round(sum(each.seconds for each in self.findings), 3),
            "rules": {
                rule.name: {
                    "statement": rule.statement,
                    "source": rule.source,
                    "exact": rule.exact,
                }
                for rule in sorted(rules)
            },
            "waivers": [self._waiver_to_dict(each) for each in self.waivers],
            "coverage": self._coverage(),
            "cases": [self._case_to_dict(each) for each in self.findings],
        }

    def _waiver_to_dict(self, waiver: Waiver) -> dict[str, Any]:
        state, cases = waiver_state(waiver, self.findings, self.date)
        return {
            "select": waiver.select,
            "reason": waiver.reason,
            "link": waiver.link,
            "expires": waiver.expires.isoformat(),
            "state": state,
            "cases": cases,
        }

    def _coverage(self) -> list[dict[str, Any]]:
        """Verdicts by cell of the matrix op × format × dtype."""
        cells: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            where = address(finding.case_id)
            cells.setdefault((where.op, where.format, where.dtype), []).append(finding)
        return [
            {
                "op": op,
                "format": format_,
                "dtype": dtype,
                "counts": {str(k): n for k, n in Counter(each.verdict for each in found).items()},
                "waived": sum(self.waiver(each) is not None for each in found),
            }
            for (op, format_, dtype), found in cells.items()
        ]

    def _case_to_dict(self, finding: Finding) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": finding.case_id,
            "verdict": str(finding.verdict),
            "ms": round(1000 * finding.seconds),
            "tightness": _number(finding.tightness),
        }
        if finding.tightest is not None:
            entry |= _figures(finding.tightest)
        if finding.message:
            entry["message"] = finding.message
        if (waiver := self.waiver(finding)) is not None:
            entry["waived"] = waiver.reason
        if finding.failed is not None:
            entry["results"] = [_judgement_to_dict(each) for each in finding.judgements]
        return entry


def _figures(judgement: Judgement) -> dict[str, Any]:
    named = {name: _number(value) for name, value in judgement.figures.items()}
    return {"quantity": judgement.quantity, "rule": judgement.rule.name, **named}


def _judgement_to_dict(judgement: Judgement) -> dict[str, Any]:
    entry = {
        **_figures(judgement),
        "elements": judgement.elements,
        "violations": judgement.violations,
        "tightness": _number(judgement.tightness),
    }
    if not judgement.passed and judgement.worst is not None:
        entry["worst"] = _worst_to_dict(judgement.worst)
    return entry


def _worst_to_dict(worst: Worst) -> dict[str, Any]:
    numbers = {name: getattr(worst, name) for name in ("got", "expected", "lowest", "highest")}
    return {
        "place": list(worst.place),
        **{name: x if math.isfinite(x) else str(x) for name, x in numbers.items()},
        **({"note": worst.note} if worst.note else {}),
    }


def _number(value: float) -> float | str:
    """JSON has no infinities and no NaN: they are written as text. Six digits say enough."""
    if math.isfinite(value):
        return float(f"{value:.6g}")
    return str(float(value))


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    with open("/proc/cpuinfo") if Path("/proc/cpuinfo").exists() else open(os.devnull) as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def to_json(document: dict[str, Any]) -> str:
    """The text of a document: indented, with one case a line, so that two reports can be compared.

    Raises:
        ValueError: if it holds a number that JSON has not.
    """
    cases = ",\n".join(
        "  " + json.dumps(case, ensure_ascii=False, allow_nan=False) for case in document["cases"]
    )
    marker = "the cases come here"
    text = json.dumps(document | {"cases": marker}, indent=1, ensure_ascii=False, allow_nan=False)
    return text.replace(json.dumps(marker), f"[\n{cases}\n ]") + "\n"


def load(path: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        ValueError: naming the file, if it cannot be read, is no report, or one of another version.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    suite = document.get("suite") if isinstance(document, dict) else None
    if not isinstance(suite, dict) or suite.get("name") != "kq-conformance":
        raise ValueError(f"{path} is not a report of kq-conformance")
    if document.get("schema_version") != SCHEMA_VERSION:
        found = document.get("schema_version")
        raise ValueError(f"{path} has the schema version {found!r}, and {SCHEMA_VERSION} is read")
    wrong = best_match(report_validator().iter_errors(document))
    if wrong is not None:
        place, message = _short(wrong.json_path), _short(wrong.message)
        raise ValueError(f"{path} is not a valid report: {place}: {message}")
    return document


def _short(text: str) -> str:
    """One line; what is wrong stands at the end of a message, after a value of any length."""
    line = " ".join(text.split())
    return line if len(line) <= 2 * _KEPT else f"{line[:_KEPT]} … {line[-_KEPT:]}"
