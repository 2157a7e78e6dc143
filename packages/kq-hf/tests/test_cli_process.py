"""The command as a process of its own: start-up, exit code, and surviving `kill -9`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from kq_cli.app import app

KQ = [sys.executable, "-m", "kq_cli"]


def test_wrong_argument_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    command = [*KQ, "quantize", str(tmp_path / "none"), str(tmp_path / "q"), "--format", "int3"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == "kq: error: --format must be one of nf4, fp4, int8, got 'int3'\n"


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from kq_cli.app import app; app(['--help'], standalone_mode=False);"
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert finished.returncode == 0
    assert b"quantize" in finished.stdout


def test_killed_run_goes_on_and_ends_as_an_unbroken_one(
    quantized: Path, text_file: Path, tmp_path: Path
) -> None:
    def arguments(out: str) -> list[str]:
        options = ["--text", str(text_file), "--out", str(tmp_path / out), "--length", "32"]
        options += ["--steps", "40", "--batch-size", "2", "--rank", "4", "--lr", "0.01"]
        options += [
            "--dropout",
            "0.1",
            "--save-every",
            "3",
            "--json",
            str(tmp_path / f"{out}.json"),
        ]
        return ["finetune", str(quantized), *options]

    process = subprocess.Popen([*KQ, *arguments("killed")], stderr=subprocess.PIPE)
    checkpoint = tmp_path / "killed.checkpoint"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert not (tmp_path / "killed").exists()

    for out in ("killed", "unbroken"):
        result = CliRunner().invoke(app, arguments(out))
        assert result.exit_code == 0, result.output
    killed, unbroken = (
        json.loads((tmp_path / f"{out}.json").read_text()) for out in ("killed", "unbroken")
    )
    assert killed["resumed_from"] >= 3
    assert unbroken["resumed_from"] == 0
    assert killed["losses"] == unbroken["losses"]
    adapters = [tmp_path / out / "adapter_model.safetensors" for out in ("killed", "unbroken")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert not checkpoint.exists()
