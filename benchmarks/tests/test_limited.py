"""A run that limits the peers starts itself again, once, in the environment that does it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import limited


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been started."""
    calls: list[Any] = []
    monkeypatch.delenv(limited.MARK, raising=False)
    monkeypatch.setattr("os.execve", lambda *given: calls.append(given))
    return calls


def test_the_command_restarts_with_its_arguments_and_the_limits(started: list[Any]) -> None:
    limited.restart("avx2", ["--quick", "--limit-peers", "avx2"])
    ((_, command, environment),) = started
    assert command[1:] == ["-m", "benchmarks", "--quick", "--limit-peers", "avx2"]
    assert environment["ATEN_CPU_CAPABILITY"] == environment["KQ_CPU_ISA"] == "avx2"
    assert environment["MKL_ENABLE_INSTRUCTIONS"] == environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_it_restarts_once(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert limited.described() == "none"
    monkeypatch.setenv(limited.MARK, "avx2")
    limited.restart("avx2", [])
    assert started == []
    assert limited.described() == "avx2"


def test_an_unknown_limit_is_refused(started: list[Any]) -> None:
    with pytest.raises(ValueError, match="limit-peers must be one of avx2, got 'neon'"):
        limited.restart("neon", [])
    assert started == []
