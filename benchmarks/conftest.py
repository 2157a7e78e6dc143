"""Fixtures of the benchmarks: the plan of the run, and the comparison of a row's contenders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import plan as plans
from benchmarks.harness import Interleaved, Row
from benchmarks.isas import chosen_isas
from benchmarks.peers.kq import FAMILY
from benchmarks.plan import Plan
from benchmarks.results import evaluate

ROW = "row"
"""Where a row's record is in pytest-benchmark's extra_info."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kq benchmarks")
    group.addoption("--kq-quick", action="store_true", help="small operands, no figures")
    group.addoption("--kq-model", action="store_true", help="also the rows of a language model")
    group.addoption("--kq-isa", action="append", default=[], help="an instruction set of kq")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs a language model, unless it is asked for: it downloads 110 MB."""
    if not config.getoption("--kq-model"):
        items[:] = [item for item in items if item.path.stem != "bench_model"]


@pytest.fixture(scope="session")
def plan(request: pytest.FixtureRequest) -> Plan:
    """What this run measures."""
    make = plans.quick if request.config.getoption("--kq-quick") else plans.full
    return make(chosen_isas(request.config.getoption("--kq-isa")))


@pytest.fixture
def compare(benchmark: BenchmarkFixture, plan: Plan) -> Callable[[Row], None]:
    """Measures and checks a row; fails if kq is wrong. A wrong peer is marked in the record.

    What pytest-benchmark times is a round: one sample of each contender and probe.
    """

    def measure(row: Row) -> None:
        with torch.set_grad_enabled(row.grad):
            timing = Interleaved([*row.contenders, *row.probes], plan.pace)
            rounds = plan.rounds(timing.round_time)
            benchmark.group = row.subject
            benchmark.pedantic(timing.round, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]
            verdicts = []
            for contender in row.contenders:
                contender.prepare()
                verdicts.append(contender.check())
        record = evaluate(row, timing.samples, timing.calls, verdicts)
        benchmark.extra_info[ROW] = record.to_json()
        wrong = [
            f"{each.family}: {each.detail}"
            for each in record.results
            if each.family.startswith(FAMILY) and not each.correct
        ]
        assert not wrong, wrong

    return measure
