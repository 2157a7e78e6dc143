"""The report on int8."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import matplotlib
from matplotlib.figure import Figure

from benchmarks.plots import STYLE, Plot
from benchmarks.quality.int8.contenders import THRESHOLD
from benchmarks.quality.int8.growing import Error
from benchmarks.quality.int8.measure import Drift, Plan, Predicted

_LABELS = {
    "whole": "int8 rows",
    "decomposed": f"threshold {THRESHOLD:g}",
    "kept": f"threshold {THRESHOLD:g}, these columns kept",
}
_KEPT = (
    'With "columns kept", what rounding took from some columns of the weights is stored in 16 bits '
    "and multiplied with the unquantized input: those columns whose inputs reached the threshold "
    "in 1 % of the tokens of another text, or in any of them."
)
_PREDICTED = (
    "{0.tokens} tokens of Wikipedia leads in windows of {0.window}; linear layers in int8 but for "
    "the head. The packaged weights were on a 4-bit grid before, from which int8 gains nothing."
)
_DRIFT = "Embeddings of {0.sentences} sentences against those of float32."
_GROWING = (
    "A product of random normal matrices, 128 rows, 1024 columns of which 6 are scaled up; "
    "{0.seeds} seeds. Errors are relative to the part of the ordinary columns."
)


def markdown(
    predicted: Sequence[Predicted],
    drifts: Sequence[Drift],
    errors: Sequence[Error],
    plan: Plan,
    plot: str,
) -> str:
    """The text of the report.

    Args:
        predicted: perplexities.
        drifts: of embeddings.
        errors: of the products with outliers that grow.
        plan: how much was measured.
        plot: file name of the figure.
    """
    baseline = predicted[0]
    lines = chain(
        ["# What int8 costs in quality", "", _KEPT, ""],
        ["## SmolLM2-135M-Instruct", "", _PREDICTED.format(plan), ""],
        _table(
            ("", "perplexity", "loss, nats a token, above float32", "bits a weight"),
            [
                (
                    each.contender,
                    f"{each.perplexity:.3f}",
                    f"{each.nll - baseline.nll:+.4f}",
                    "" if each.bits is None else f"{each.bits:.2f}",
                )
                for each in predicted
            ],
        ),
        ["", "## all-MiniLM-L6-v2", "", _DRIFT.format(plan), ""],
        _table(
            ("", "1 - cosine, mean", "worst", "change of the similarity of two sentences, rms"),
            [
                (each.contender, f"{each.mean:.2e}", f"{each.worst:.2e}", f"{each.pairs:.2e}")
                for each in drifts
            ],
        ),
        ["", "## Outliers that grow", "", _GROWING.format(plan), ""],
        _table(
            ("factor", *_LABELS.values()),
            [
                (f"{each.factor}", *(f"{getattr(each, name):.2%}" for name in _LABELS))
                for each in errors
            ],
        ),
        ["", f"![Error of a product as its outliers grow]({plot})", ""],
    )
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def curves(errors: Sequence[Error]) -> Plot:
    """Error against the size of the outliers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        for name, label in _LABELS.items():
            points = [(each.factor, getattr(each, name)) for each in errors]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        axes.set(
            xlabel="factor of the outlier columns",
            ylabel="error, relative to the ordinary columns' part",
            xscale="log",
            yscale="log",
        )
        axes.legend()
    return Plot("growing", "Error of a product as its outliers grow", figure)
