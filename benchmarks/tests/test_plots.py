"""The plots show what the records say, and equal records give equal files."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.plots import plots
from benchmarks.results import Record, Result


def record(M: int, fraction: float = 0.5, bound: str = "read") -> Record:
    def result(family: str, seconds: float) -> Result:
        return Result(family, "", seconds, 0.0, fraction, bound, True, "", 1, traffic=1000)

    results = [result("kq avx2", 1e-3 * M), result("torch", 2e-3 * M)]
    limits = {"read": 1e6, "compute": 1e9}
    return Record("linear", f"M = {M}", 5, results, limits, 10**6 * M, M, "64 x 64, float32")


def test_time_is_drawn_against_the_rows_with_both_roofs() -> None:
    (axes,) = plots([record(16), record(1), record(4)], "kq")[0].figure.axes
    assert axes.get_title() == "64 x 64, float32"
    drawn: Any = axes.lines
    lines = {line.get_label(): line.get_xydata().ravel().tolist() for line in drawn}
    assert lines == {
        "kq avx2": [1, 1, 4, 4, 16, 16],
        "torch": [1, 2, 4, 8, 16, 32],
        "reading the quantized weight": [1, 1, 4, 1, 16, 1],
        "arithmetic of torch's matmul": [1, 1, 4, 4, 16, 16],
    }


def test_bars_show_the_median_share_of_an_op_of_ours() -> None:
    plot = plots([record(1, 0.25), record(1, 0.75), record(1, 0.5)], "kq")[-1]
    (axes,) = plot.figure.axes
    bars: Any = axes.patches
    assert [bar.get_width() for bar in bars] == [50]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["linear, M = 1"]


def test_equal_records_give_equal_files_without_a_date() -> None:
    records = [record(M) for M in (1, 2, 4)]
    first, second = ([plot.svg() for plot in plots(records, "kq")] for _ in range(2))
    assert first == second
    assert not any("dc:date" in text for text in first)


@pytest.mark.parametrize("records", [[], [record(1, bound="")] * 2])
def test_too_little_gives_no_plot(records: list[Record]) -> None:
    assert plots(records, "kq") == []
