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
from kq_conformance.cases import Profile, select
from kq_conformance.discovery import BackendError
from kq_conformance.explain import explain
from kq_conformance.pool import Task, ask, describe, open_pool
from kq_conformance.runner import Settings, Verdict
from kq_conformance.waivers import Waiver, find_waiver, load_waivers

__all__ = ["Asker", "check_options", "chosen_ids", "open_asker"]


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


def chosen_ids(config: pytest.Config) -> list[str]:
    """The ids of the cases that the command line asks for."""
    profile = Profile[config.getoption("kq_profile").upper()]
    return [case.id for case in select(profile, config.getoption("kq_select"))]


def check_options(config: pytest.Config) -> None:
    """Look at the options, and load the backend in a worker, before there is a test.

    Raises:
        pytest.UsageError: in one line, naming the option.
    """
    option = config.getoption
    if not option("kq_timeout") > 0:
        raise pytest.UsageError(
            f"--kq-timeout must be a number of seconds above 0, got {option('kq_timeout'):g}"
        )
    if not chosen_ids(config):
        raise pytest.UsageError(f"--kq-select {option('kq_select')!r} matches no case")
    try:
        _waivers(config)
        describe(option("kq_backend"), option("kq_device"), option("kq_timeout"))
    except (BackendError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error


@contextmanager
def open_asker(config: pytest.Config) -> Iterator[Asker]:
    """The backend of the command line, with a worker of its own."""
    option = config.getoption
    settings = Settings(option("kq_seed"), Strictness(option("kq_rules")), option("kq_device"))
    with open_pool(1) as pool:
        yield Asker(pool, option("kq_backend"), settings, option("kq_timeout"), _waivers(config))


def _waivers(config: pytest.Config) -> tuple[Waiver, ...]:
    path = config.getoption("kq_waivers")
    return () if path is None else load_waivers(path)
