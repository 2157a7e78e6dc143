"""The report: final losses beside the noise of the seeds, bytes of state, curves."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import mean, stdev

import matplotlib
from matplotlib.figure import Figure

from benchmarks.plots import STYLE, Plot
from benchmarks.quality.contenders import CONTENDERS, Contender
from benchmarks.quality.trial import Plan, Trial, describe

_EXPLANATION = (
    "Loss on held-out text in nats a byte: mean over seeds, and their standard deviation. The "
    "distance is the mean over seeds of the difference to the baseline with the same seed."
)
_HEADER = (
    "optimizer",
    "seeds",
    "loss",
    "distance to",
    "in standard deviations of it",
    "bytes of state a parameter",
)
_SMOOTH = 20  # steps in a point of a curve


def markdown(trials: Sequence[Trial], plan: Plan, plot: str) -> str:
    """The text of the report.

    Args:
        trials: all runs.
        plan: how long they were.
        plot: file name of the curves.
    """
    parameters = trials[0].parameters
    lines = [
        "# What 8-bit optimizer state costs in quality",
        "",
        f"{describe(plan)} {parameters / 1e6:.2f} million parameters.",
        _EXPLANATION,
        "",
        f"| {' | '.join(_HEADER)} |",
        f"| {' | '.join('---' for _ in _HEADER)} |",
    ]
    for contender in CONTENDERS:
        own = _of(trials, contender.name)
        if own:
            lines.append(_row(contender, own, _of(trials, contender.baseline)))
    return "\n".join([*lines, "", f"![Loss while training, mean over seeds]({plot})", ""])


def _of(trials: Sequence[Trial], name: str) -> dict[int, Trial]:
    return {trial.seed: trial for trial in trials if trial.contender == name}


def _row(contender: Contender, own: dict[int, Trial], baseline: dict[int, Trial]) -> str:
    losses = [trial.held_out for trial in own.values()]
    diverged = sum(not isfinite(loss) for loss in losses)
    if diverged:
        final = f"not finite in {diverged} of {len(losses)} runs"
    else:
        final = f"{mean(losses):.4f}" + (f" ± {stdev(losses):.4f}" if len(losses) > 1 else "")
    distance, relative = "", ""
    common = sorted(own.keys() & baseline.keys())
    if contender.name != contender.baseline and common and not diverged:
        shift = mean(own[seed].held_out - baseline[seed].held_out for seed in common)
        distance = f"{shift:+.4f} ({contender.baseline})"
        if len(baseline) > 1:
            noise = stdev(trial.held_out for trial in baseline.values())
            relative = f"{shift / noise:+.1f}"
    stored = next(iter(own.values())).bytes_per_parameter
    cells = (
        contender.name,
        str(len(own)),
        final,
        distance,
        relative,
        f"{stored:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def curves(trials: Sequence[Trial]) -> Plot:
    """Loss while training."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.add_subplot()
        for contender in CONTENDERS:
            runs = [trial.losses for trial in _of(trials, contender.name).values()]
            if runs:
                whole = [mean(step) for step in zip(*runs, strict=True)]
                points = range(_SMOOTH, len(whole) + 1, _SMOOTH)
                axes.plot(
                    points,
                    [mean(whole[end - _SMOOTH : end]) for end in points],
                    label=contender.name,
                    linewidth=1,
                )
        axes.set(xlabel="step", ylabel=f"loss, mean of {_SMOOTH} steps", yscale="log")
        axes.legend(fontsize=7)
    return Plot("curves", "Loss while training", figure)
