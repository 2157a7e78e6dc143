"""Cases as tests of pytest.

A failure that a waiver covers is an expected failure, and what the backend has not declared is
skipped. Cases run in one worker process for each process of pytest, so that a crash of the backend
is the failure of a test.
"""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from pebble import ProcessPool

from kq_conformance.bounds import Strictness
from kq_conformance.discovery import BackendError
from kq_conformance.explain import explain
from kq_conformance.pool import Task, ask, describe, open_pool
from kq_conformance.runner import Settings, Verdict
from kq_conformance.waivers import Waiver, find_waiver, load_waivers

__all__ = ["Asker", "open_asker"]


@dataclass(frozen=True)
class Asker:
    """Runs cases on one backend.

    Attributes:
        pool: with one worker.
        backend: as named on the command line.
        settings: how to run.
        timeout: seconds for a case.
        waivers: failures that are accepted.
    """

    pool: ProcessPool
    backend: str
    settings: Settings
    timeout: float
    waivers: tuple[Waiver, ...]

    def check(self, case_id: str) -> None:
        """Ask one question; ends as tests end: by pass, fail, skip or expected failure."""
        finding = ask(self.pool, Task(self.backend, case_id, self.settings), self.timeout)
        if finding.verdict is Verdict.UNSUPPORTED:
            pytest.skip(finding.message or "not declared")
        if finding.verdict.acceptable:
            return
        today = datetime.datetime.now(tz=datetime.UTC).date()
        waiver = find_waiver(self.waivers, finding, today)
        text = explain(self.backend, finding, self.settings, waiver)
        if waiver is not None:
            pytest.xfail(text)
        pytest.fail(text, pytrace=False)


@contextmanager
def open_asker(config: pytest.Config) -> Iterator[Asker]:
    """Load the backend of the command line in a worker.

    Raises:
        pytest.UsageError: if it, or the file of waivers, cannot be loaded.
    """
    option = config.getoption
    backend, device, timeout = option("kq_backend"), option("kq_device"), option("kq_timeout")
    settings = Settings(option("kq_seed"), Strictness(option("kq_rules")), device)
    path = option("kq_waivers")
    try:
        waivers = () if path is None else load_waivers(path)
        describe(backend, device, timeout)
    except (BackendError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    with open_pool(1) as pool:
        yield Asker(pool, backend, settings, timeout, waivers)
