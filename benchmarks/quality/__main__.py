"""Command line: `python -m benchmarks.quality`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import track

from benchmarks.quality import report
from benchmarks.quality.contenders import CONTENDERS
from benchmarks.quality.model import Text
from benchmarks.quality.trial import FULL, QUICK, Trial, train
from interop.paths import CACHE
from kq_hf.files import replaced_file


def main(
    output: Annotated[Path, typer.Argument(help="Folder of the results; continued if it has some")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each optimizer")] = 3,
    only: Annotated[str, typer.Option(help="Optimizers whose names contain this")] = "",
    quick: Annotated[bool, typer.Option(help="A few steps of a tiny model")] = False,
) -> None:
    """Train a small language model with each optimizer, and report what 8-bit state costs."""
    chosen = [contender for contender in CONTENDERS if only.lower() in contender.name.lower()]
    if not chosen:
        names = ", ".join(contender.name for contender in CONTENDERS)
        raise typer.BadParameter(f"no optimizer is named like {only!r}; there are {names}")
    plan = QUICK if quick else FULL
    output.mkdir(parents=True, exist_ok=True)
    results = output / "quality.json"
    trials = [Trial(**each) for each in json.loads(results.read_text())] if results.exists() else []
    if any(len(trial.losses) != plan.steps for trial in trials):
        raise typer.BadParameter(f"{results} holds runs of another length; choose another folder")
    done = {(trial.contender, trial.seed) for trial in trials}
    open_runs = [
        (contender, seed)
        for seed in range(seeds)
        for contender in chosen
        if (contender.name, seed) not in done
    ]
    text = Text.load(CACHE)
    for contender, seed in track(open_runs, "training"):
        trials.append(train(contender, seed, text, plan))
        _write(results, json.dumps([asdict(trial) for trial in trials]) + "\n")
    plot = report.curves(trials)
    _write(output / "quality-curves.svg", plot.svg())
    _write(output / "quality.md", report.markdown(trials, plan, "quality-curves.svg"))


def _write(path: Path, text: str) -> None:
    with replaced_file(path) as unfinished:
        unfinished.write_text(text)


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    typer.run(main)
