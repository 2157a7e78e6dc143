"""The record of a run: a JSON document, and what a person reads on the terminal."""

import json
import math
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kq_conformance import __version__
from kq_conformance.bounds import Judgement
from kq_conformance.cases import Profile
from kq_conformance.runner import Finding, Settings, Verdict

__all__ = ["SCHEMA_VERSION", "Report", "write_json"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Report:
    """What was asked of which backend, and what came out.

    Attributes:
        backend: how the backend was named on the command line.
        described: its name, version and `describe()`.
        environment: versions of what it ran on (torch).
        profile: which cases.
        pattern: which of them.
        settings: how they were run.
        findings: one for each case.
    """

    backend: str
    described: dict[str, str]
    environment: dict[str, str]
    profile: Profile
    pattern: str
    settings: Settings
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[str, int]:
        """Number of cases by verdict, all verdicts present."""
        counted = Counter(each.verdict for each in self.findings)
        return {str(verdict): counted[verdict] for verdict in Verdict}

    @property
    def passed(self) -> bool:
        """True if no case failed, crashed or was over-claimed, and at least one passed."""
        acceptable = all(each.verdict.acceptable for each in self.findings)
        return acceptable and self.counts[Verdict.PASS] > 0

    @property
    def certifies(self) -> bool:
        """True if the run says something about the whole backend: all cases of CORE or FULL."""
        return self.passed and self.profile is not Profile.QUICK and self.pattern == "*"

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` writes; its layout is versioned by `SCHEMA_VERSION`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "suite": {"name": "kq-conformance", "version": __version__},
            "backend": {"argument": self.backend, **self.described},
            "environment": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "machine": platform.machine(),
                "processor": _processor(),
                **self.environment,
            },
            "profile": self.profile.name.lower(),
            "select": self.pattern,
            "seed": self.settings.seed,
            "strictness": self.settings.strictness.value,
            "device": self.settings.device,
            "passed": self.passed,
            "certifies": self.certifies,
            "counts": self.counts,
            "seconds": round(sum(each.seconds for each in self.findings), 3),
            "cases": [_case_to_dict(each) for each in self.findings],
        }

    def reproduction(self, finding: Finding) -> str:
        """The command that runs one case alone, with the same inputs."""
        parts = [f"kq-conformance run --backend {self.backend} --select '{finding.case.id}'"]
        defaults = Settings()
        if self.settings.seed != defaults.seed:
            parts.append(f"--seed {self.settings.seed}")
        if self.settings.strictness is not defaults.strictness:
            parts.append(f"--rules {self.settings.strictness.value}")
        if self.settings.device != defaults.device:
            parts.append(f"--device {self.settings.device}")
        return " ".join(parts)

    def explain(self, finding: Finding) -> str:
        """A failure on one screen: the case, how to reproduce it, the worst element, the rule."""
        lines = [f"{finding.verdict.upper()}  {finding.case.id}"]
        lines.append(f"  reproduce  {self.reproduction(finding)}")
        if finding.message:
            lines.append(f"  message    {finding.message}")
        if finding.failed is not None:
            lines += _explain_judgement(finding.failed)
        return "\n".join(lines)


def _explain_judgement(judgement: Judgement) -> list[str]:
    worst = judgement.worst
    assert worst is not None  # a violation has an element
    excess = (
        "" if math.isinf(judgement.tightness) else f" ({judgement.tightness:.3g} times the bound)"
    )
    count = f"{judgement.violations} of {judgement.elements}"
    return [
        f"  result     {judgement.quantity}: {count} elements outside of what is allowed{excess}",
        f"  worst      {judgement.quantity}{list(worst.place)}",
        f"  got        {worst.got!r}",
        f"  expected   {worst.expected!r}",
        f"  allowed    [{worst.lowest!r}, {worst.highest!r}]",
        f"  rule       {judgement.rule.name}: {judgement.rule.statement}",
        f"  source     {judgement.rule.source}",
    ]


def _case_to_dict(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": finding.case.id,
        "verdict": str(finding.verdict),
        "seconds": round(finding.seconds, 6),
        "tightness": _number(finding.tightness),
    }
    if finding.message:
        entry["message"] = finding.message
    if finding.judgements:
        entry["results"] = [_judgement_to_dict(each) for each in finding.judgements]
    return entry


def _judgement_to_dict(judgement: Judgement) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "quantity": judgement.quantity,
        "rule": judgement.rule.name,
        "elements": judgement.elements,
        "violations": judgement.violations,
        "tightness": _number(judgement.tightness),
    }
    entry.update({name: _number(value) for name, value in judgement.figures.items()})
    if not judgement.passed and judgement.worst is not None:
        worst = judgement.worst._asdict()
        place = worst.pop("place")
        entry["worst"] = {"place": list(place)} | {key: _number(v) for key, v in worst.items()}
    return entry


def _number(value: float) -> float | str:
    """JSON has no infinities and no NaN: they are written as text."""
    if math.isfinite(value):
        return float(value)
    return str(float(value))


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    with open("/proc/cpuinfo") if Path("/proc/cpuinfo").exists() else open(os.devnull) as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write a document under a temporary name beside its target, then rename it.

    Raises:
        OSError: if the folder does not exist or cannot be written to.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
