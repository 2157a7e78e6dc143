"""Command line: `python -m benchmarks.quality.int8`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.quality.int8 import report
from benchmarks.quality.int8.growing import errors
from benchmarks.quality.int8.measure import FULL, QUICK, drifts, perplexities
from interop.paths import CACHE
from kq_hf.files import replaced_file


def main(
    output: Annotated[Path, typer.Argument(help="Folder of the results")],
    quick: Annotated[bool, typer.Option(help="Little text, one seed")] = False,
) -> None:
    """Measure what int8 costs: perplexity, drift of embeddings, and outliers that grow."""
    plan = QUICK if quick else FULL
    predicted, moved = perplexities(CACHE, plan), drifts(CACHE, plan)
    growing = errors(plan.seeds)
    plot = report.curves(growing)
    records = {
        "plan": asdict(plan),
        "perplexity": [asdict(each) for each in predicted],
        "drift": [asdict(each) for each in moved],
        "growing": [asdict(each) for each in growing],
    }
    _write(output / "int8.json", json.dumps(records, indent=1) + "\n")
    _write(output / "int8-growing.svg", plot.svg())
    text = report.markdown(predicted, moved, growing, plan, "int8-growing.svg")
    _write(output / "int8.md", text)


def _write(path: Path, text: str) -> None:
    with replaced_file(path) as unfinished:
        unfinished.write_text(text)


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    typer.run(main)
