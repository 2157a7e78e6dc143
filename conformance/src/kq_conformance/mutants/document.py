"""The table of mutants and the cases that kill them, as Markdown."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from kq_conformance.mutants.trial import Outcome

__all__ = ["to_markdown"]

_HEAD = """\
# Mutants

Backends with one mistake each, and the case of `kq-conformance` that must catch it. Written by
`kq-conformance mutants --markdown docs/mutants.md`, which runs all of them. *Ledger* names an entry
of our list of defects that real libraries have had. *Also* counts the other cases of the profile
`quick` that the mutant does not pass, by operation; a 0 shows why `quick` does not certify.
"""


def to_markdown(outcomes: Sequence[Outcome]) -> str:
    """One section for each topic; the same on every machine."""
    parts = [_HEAD]
    for topic, group in groupby(outcomes, key=lambda each: each.mutant.topic):
        rows = [
            f"## {topic}",
            "",
            "| mutant | ledger | mistake | killed by | verdict | also |",
            "|---|---|---|---|---|---|",
        ]
        rows += [_row(each) for each in group]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(outcome: Outcome) -> str:
    mutant = outcome.mutant
    cells = (
        mutant.name,
        mutant.ledger,
        mutant.mistake,
        f"`{mutant.killer}`",
        f"**{outcome.complaint}**" if outcome.complaint else str(mutant.verdict),
        _also(outcome.others),
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _also(cases: Sequence[str]) -> str:
    """How many cases of which operations."""
    counted = Counter(case.partition("/")[0] for case in cases)
    return ", ".join(f"{op} {count}" for op, count in counted.items()) or "0"
