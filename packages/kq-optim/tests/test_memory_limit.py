"""An optimizer whose state exceeds the memory that its process may have completes its steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("limited_training.py")
CGROUP = Path("/sys/fs/cgroup/memory")  # version 1, where the limit can be lowered from within


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def show(kind, results):
    """Reported with `pytest -rP`; never asserted."""
    limited, unlimited = results["paged"] * 1e3, results["unlimited"] * 1e3
    print(
        f"{kind}: 24 MiB of state in 8 MiB, paged: {limited:.1f} ms a step; "
        f"resident, unlimited: {unlimited:.1f} ms; {limited / unlimited:.2f} times"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
def test_paged_state_may_exceed_the_limit_of_the_process(tmp_path):
    done = run("data", tmp_path, "paged", "resident")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["paged"] is not None
    assert results["resident"] is None
    show("RLIMIT_DATA", results)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.access(CGROUP / "memory.limit_in_bytes", os.W_OK), reason="needs a memory cgroup"
)
def test_paged_state_may_exceed_the_memory_of_a_cgroup(tmp_path):
    """Here the pages of the files count, so that the system writes them out and reads them back."""
    folder = CGROUP / f"kq-optim-{os.getpid()}"
    done = {}
    for placement in ("resident", "paged"):
        folder.mkdir()
        try:
            done[placement] = run(folder, tmp_path, placement)
        finally:
            folder.rmdir()
    assert done["resident"].returncode == -9  # the system ended it
    assert done["paged"].returncode == 0, done["paged"].stderr
    show("cgroup", json.loads(done["paged"].stdout))
