"""An optimizer whose state exceeds the memory that its process may have completes its steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("limited_training.py")
CGROUP = Path("/sys/fs/cgroup/memory")  # version 1, where the limit can be lowered from within


def run(placement, limit, directory):
    return subprocess.run(
        [sys.executable, SCRIPT, placement, str(limit), str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )


def show(kind, unlimited, limited):
    """Reported with `pytest -rP`; never asserted."""
    before, after = (float(result.stdout) for result in (unlimited, limited))
    print(
        f"{kind}: 48 MiB of state in 16 MiB: {after * 1e3:.0f} ms a step, "
        f"resident and unlimited {before * 1e3:.0f} ms: {after / before:.1f} times"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
def test_paged_state_may_exceed_the_limit_of_the_process(tmp_path):
    unlimited = run("resident", "none", tmp_path)
    assert unlimited.returncode == 0, unlimited.stderr
    resident = run("resident", "data", tmp_path)
    assert resident.returncode != 0
    assert "can't allocate memory" in resident.stderr
    limited = run("paged", "data", tmp_path)
    assert limited.returncode == 0, limited.stderr
    show("RLIMIT_DATA", unlimited, limited)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.access(CGROUP / "memory.limit_in_bytes", os.W_OK), reason="needs a memory cgroup"
)
def test_paged_state_may_exceed_the_memory_of_a_cgroup(tmp_path):
    """Here the pages of the files count, so that the system writes them out and reads them back."""
    folder = CGROUP / f"kq-optim-{os.getpid()}"
    results = {}
    for placement in ("resident", "paged"):
        folder.mkdir()
        try:
            results[placement] = run(placement, folder, tmp_path)
        finally:
            folder.rmdir()
    assert results["resident"].returncode == -9  # the system ended it
    assert results["paged"].returncode == 0, results["paged"].stderr
    show("cgroup", run("resident", "none", tmp_path), results["paged"])
