"""Plots of a report, from records."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from statistics import median
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from benchmarks.harness import ARITHMETIC
from benchmarks.report import unique
from benchmarks.results import Record

_FEWEST = 3  # points that make a curve
_COLUMNS = 2
# Equal records give equal files, and text stays text.
STYLE: Any = {"svg.hashsalt": "kq", "svg.fonttype": "none", "font.size": 9}
_MARKERS = "osD^vP"


class Plot(NamedTuple):
    """A figure.

    Attributes:
        name: the end of its file's name.
        caption: what it shows.
        figure: the drawing.
    """

    name: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """The figure as a file, without a date."""
        text = StringIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def plots(records: Sequence[Record], prefix: str) -> list[Plot]:
    """The figures that these records are enough for.

    Args:
        records: measured rows.
        prefix: families whose names begin with it are ours.
    """
    with matplotlib.rc_context(STYLE):
        return [*_curves(records, prefix), *_fractions(records, prefix)]


def _curves(records: Sequence[Record], prefix: str) -> list[Plot]:
    """Time against M, a panel for each series, with what the machine's limits allow."""
    series = {
        name: sorted((each for each in records if each.series == name), key=lambda each: each.rows)
        for name in unique(each.series for each in records)
        if name
    }
    series = {name: rows for name, rows in series.items() if len(rows) >= _FEWEST}
    if not series:
        return []
    lines = -(-len(series) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 3.4 * lines + 0.7), layout="constrained")
    panels = list(figure.subplots(lines, _COLUMNS, squeeze=False).flat)
    for axes, (name, rows) in zip(panels, series.items(), strict=False):
        _curve(axes, rows, prefix)
        axes.set_title(name)
    for axes in panels[len(series) :]:
        axes.remove()
    entries = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper center", ncols=4, frameon=False
    )
    caption = "Time of the linear layer against the number of rows M, and what the limits allow"
    return [Plot("time", caption, figure)]


def _curve(axes: Any, records: Sequence[Record], prefix: str) -> None:
    families = unique(each.family for record in records for each in record.results)
    for i, family in enumerate(families):
        found = [(record.rows, record.best(family)) for record in records]
        points = [(rows, 1e3 * best.seconds) for rows, best in found if best]
        style = "-" if family.startswith(prefix) else "--"
        marker = _MARKERS[i % len(_MARKERS)]
        axes.plot(*zip(*points, strict=True), style, marker=marker, ms=4, lw=1.2, label=family)
    for limit, label, color in (
        ("read", "reading the quantized weight", "0.35"),
        ("compute", "arithmetic of torch's matmul", "0.65"),
        ("int8 compute", "arithmetic of torch's int8 matmul", "0.65"),
    ):
        roof = [
            (record.rows, 1e3 * _allowed(record, limit, prefix))
            for record in records
            if limit in record.limits
        ]
        if roof:
            axes.plot(*zip(*roof, strict=True), ":", color=color, lw=2, label=label)
    ticks = [record.rows for record in records]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(each) for each in ticks], fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set(xlabel="M", ylabel="ms")


def _allowed(record: Record, limit: str, prefix: str) -> float:
    """Seconds that a limit allows our contender: of its bytes or of its operations."""
    ours = next(each for each in record.results if each.family.startswith(prefix))
    amount = record.flops if limit in ARITHMETIC else ours.traffic
    return amount / record.limits[limit]


def _fractions(records: Sequence[Record], prefix: str) -> list[Plot]:
    """Share of the limit: a group of bars for each op, a bar for each of our families."""
    shares: dict[str, dict[str, list[float]]] = {}
    for record in records:
        op = f"{record.subject}, M = {record.rows}" if record.rows else record.subject
        for family in unique(each.family for each in record.results):
            best = record.best(family)
            if family.startswith(prefix) and best and best.bound:
                shares.setdefault(op, {}).setdefault(family, []).append(100 * best.fraction)
    if not shares:
        return []
    families = unique(family for by_family in shares.values() for family in by_family)
    thick = 0.8 / len(families)
    figure = Figure(figsize=(8, 1.2 + 0.22 * len(families) * len(shares)), layout="constrained")
    axes = figure.subplots()
    for i, family in enumerate(families):
        bars = [(j, by[family]) for j, by in enumerate(shares.values()) if family in by]
        at = [j + (i - (len(families) - 1) / 2) * thick for j, _ in bars]
        middles = [median(values) for _, values in bars]
        reach = [
            [middle - min(values) for middle, (_, values) in zip(middles, bars, strict=True)],
            [max(values) - middle for middle, (_, values) in zip(middles, bars, strict=True)],
        ]
        whiskers = {"elinewidth": 0.8, "ecolor": "0.3"}
        axes.barh(at, middles, 0.9 * thick, xerr=reach, error_kw=whiskers, label=family)
    axes.axvline(100, color="0.35", ls=":", lw=1.5)
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(xlabel="% of the limit", ylim=(len(shares) - 0.5, -0.5), xlim=(0, None))
    axes.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=len(families), frameon=False)
    caption = (
        "Share of the machine's limit: median, and from lowest to highest, of the rows of an op"
    )
    return [Plot("limits", caption, figure)]
