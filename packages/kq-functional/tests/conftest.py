"""Backends to test on, and a registry that a test may spoil."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kq_functional as kq
from kq_functional import registry, selection

RECORDS = {record.name: record for record in kq.backends()}


def _parameter(name: str) -> object:
    record = RECORDS[name]
    missing = pytest.mark.skipif(record.status != "loaded", reason=f"{name}: {record.error}")
    return pytest.param(name, marks=missing)


@pytest.fixture(params=[_parameter("torch"), _parameter("native")])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with each backend pinned."""
    with kq.use_backend(request.param):
        yield request.param


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Let a test register and load backends of its own, and forget them afterwards."""

    def forget() -> None:
        registry._registered.cache_clear()
        registry._loaded.clear()
        selection._choices.clear()

    forget()
    yield
    forget()
