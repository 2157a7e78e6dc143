"""The report on int8, and the outliers that grow."""

from __future__ import annotations

from benchmarks.quality.int8 import report
from benchmarks.quality.int8.contenders import CONTENDERS
from benchmarks.quality.int8.growing import FACTORS, errors
from benchmarks.quality.int8.measure import QUICK, Drift, Predicted


def test_growing_outliers_cost_what_they_should() -> None:
    """Ordinary elements lose nothing to outliers apart; those err by the rounding of the weight."""
    found = errors(seeds=1)
    assert [each.factor for each in found] == list(FACTORS)
    small, large = found[0], found[-1]
    # The step of a row grows by about the factor, and 6 of 1024 columns are too few to hide it.
    assert large.whole > 10 * small.whole
    assert large.kept < 1.1 * small.kept  # 1018 of 1024 columns are the same
    assert large.kept < large.decomposed < large.whole


def test_report_has_a_row_for_each_contender() -> None:
    predicted = [Predicted(each.name, 10.0, 2.3 + i, 8.5) for i, each in enumerate(CONTENDERS)]
    drifts = [Drift(each.name, 1e-4, 2e-4, 3e-4) for each in CONTENDERS[1:]]
    growing = errors(seeds=1)
    text = report.markdown(predicted, drifts, growing, QUICK, "plot.svg")
    for each in CONTENDERS:
        assert text.count(f"| {each.name} |") == (1 if each is CONTENDERS[0] else 2)
    assert "+1.0000" in text
    assert report.curves(growing).svg().startswith("<?xml")
