"""A run in which the peers, too, are held to one instruction set."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

MARK = "KQ_BENCH_PEERS"
"""Environment variable that tells a run which limit its environment holds."""

ENVIRONMENTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        name: MappingProxyType(
            {
                "MKL_ENABLE_INSTRUCTIONS": name.upper(),
                "ONEDNN_MAX_CPU_ISA": name.upper(),
                "ATEN_CPU_CAPABILITY": name,
                "KQ_CPU_ISA": name,
                MARK: name,
            }
        )
        for name in ("avx2",)
    }
)
"""What MKL, oneDNN, torch's own kernels and kq read when they are loaded."""


def restart(limit: str, arguments: Sequence[str]) -> None:
    """Replaces this process by one with the environment of a limit, unless it has that already.

    Args:
        limit: a key of `ENVIRONMENTS`.
        arguments: of the command, that of the limit included.

    Raises:
        ValueError: for an unknown limit.
    """
    if limit not in ENVIRONMENTS:
        accepted = ", ".join(ENVIRONMENTS)
        raise ValueError(f"limit-peers must be one of {accepted}, got {limit!r}")
    if os.environ.get(MARK) == limit:
        return
    sys.stdout.flush()
    command = [sys.executable, "-m", "benchmarks", *arguments]
    os.execve(sys.executable, command, {**os.environ, **ENVIRONMENTS[limit]})


def described() -> str:
    """The limit of the peers in this run, for a report."""
    return os.environ.get(MARK) or "none"
