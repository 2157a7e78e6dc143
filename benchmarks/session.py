"""Running the subjects under pytest, and collecting their records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.conftest import ROW
from benchmarks.results import Record

_SUBJECTS = Path(__file__).parent / "subjects"


class Watch:
    """Pytest plugin: progress instead of pytest's own output, and the text of failures."""

    def __init__(self, bar: Progress) -> None:
        self.failures: list[str] = []
        self._bar = bar
        self._task = bar.add_task("collecting", total=None)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learns how many rows there are."""
        self._bar.update(self._task, total=len(session.items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keeps what could not be imported."""
        if report.failed:
            self.failures.append(f"{report.nodeid}\n{report.longreprtext}")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Shows which row is measured."""
        self._bar.update(self._task, description=nodeid.rpartition("::")[2])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts rows, and keeps what went wrong."""
        if report.failed:
            self.failures.append(f"{report.nodeid}\n{report.longreprtext}")
        if report.when == "teardown":
            self._bar.advance(self._task)


def measure(
    isas: Sequence[str], *, quick: bool, model: bool, only: str, console: Console
) -> tuple[list[Record], list[str]]:
    """Measures the rows of all subjects.

    Args:
        isas: instruction sets of kq.
        quick: small operands.
        model: also the rows of a language model.
        only: an expression that selects rows, as pytest's -k takes it; empty: all.
        console: where progress goes, if it is a terminal.

    Returns:
        The records, and the text of each row's failure, if any.

    Raises:
        ValueError: if `only` selects nothing.
        RuntimeError: if the rows could not be measured at all.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        ) as bar,
    ):
        output = Path(folder) / "pytest-benchmark.json"
        watch = Watch(bar)
        arguments = [
            str(_SUBJECTS),
            "--override-ini=python_files=bench_*.py",
            "--override-ini=addopts=--import-mode=importlib",
            "--capture=no",
            "-pno:terminal",
            "-pno:cacheprovider",
            "--benchmark-disable-gc",
            "--benchmark-quiet",
            f"--benchmark-json={output}",
            f"-k={only}",
            *(["--kq-quick"] if quick else []),
            *(["--kq-model"] if model else []),
            *(f"--kq-isa={isa}" for isa in isas),
        ]
        code = pytest.main(arguments, plugins=[watch])
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise ValueError(f"only={only!r} selects no row")
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise RuntimeError("\n".join([f"pytest ended with code {code}", *watch.failures]))
        # There is no file if every row failed.
        found = json.loads(output.read_text("utf-8"))["benchmarks"] if output.exists() else []
    rows = [each["extra_info"][ROW] for each in found if ROW in each["extra_info"]]
    return [Record.from_json(row) for row in rows], watch.failures
