"""What was measured on what, without names of hosts or paths."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import kq_kernels
from benchmarks import limited

_DISTRIBUTIONS = ("kq-kernels", "kq-functional", "kq-nn", "kq-optim", "torch", "bitsandbytes")
_CPUINFO = Path("/proc/cpuinfo")


def _processor() -> str:
    """The processor's own name, where the system tells."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, str]:
    """The machine, the versions and the day, as text for a report."""
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": f"{len(os.sched_getaffinity(0))}, threads of torch and kq: "
        f"{torch.get_num_threads()}",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "instruction sets of kq": ", ".join(kq_kernels.available_isas()),
        "instruction set of torch": torch.backends.cpu.get_cpu_capability(),
        "peers held to": limited.described(),
        "compiler of kq": kq_kernels.build_info()["compiler"],
        "system": platform.system(),
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in _DISTRIBUTIONS}
