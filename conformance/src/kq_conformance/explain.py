"""A failure on one screen: the case, how to reproduce it, the worst element, and the rule."""

import math

from kq_conformance.bounds import Judgement
from kq_conformance.runner import Finding, Settings
from kq_conformance.waivers import Waiver

__all__ = ["explain", "reproduction"]


def reproduction(backend: str, case_id: str, settings: Settings) -> str:
    """The command that runs one case alone, with the same inputs."""
    parts = [f"kq-conformance run --backend {backend} --select '{case_id}'"]
    defaults = Settings()
    if settings.seed != defaults.seed:
        parts.append(f"--seed {settings.seed}")
    if settings.strictness is not defaults.strictness:
        parts.append(f"--rules {settings.strictness.value}")
    if settings.device != defaults.device:
        parts.append(f"--device {settings.device}")
    return " ".join(parts)


def explain(
    backend: str, finding: Finding, settings: Settings, waiver: Waiver | None = None
) -> str:
    """Describe a failure.

    Args:
        backend: how the backend was named on the command line.
        finding: the failure.
        settings: how it was run.
        waiver: what excuses it.
    """
    lines = [f"{finding.verdict.upper()}  {finding.case_id}"]
    lines.append(f"  reproduce  {reproduction(backend, finding.case_id, settings)}")
    if waiver is not None:
        lines.append(f"  waived     until {waiver.expires}: {waiver.reason} ({waiver.link})")
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
        *([f"  note       {worst.note}"] if worst.note else []),
        f"  rule       {judgement.rule.name}: {judgement.rule.statement}",
        f"  source     {judgement.rule.source}",
    ]
