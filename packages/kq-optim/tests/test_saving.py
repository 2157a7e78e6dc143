"""Checkpoint files: whole or not at all."""

import os
import stat

import pytest
import torch

from kq_optim import AdamW8bit, PagedAdamW8bit, load_checkpoint, save_checkpoint


def stepped(cls, **options):
    param = torch.nn.Parameter(torch.linspace(-1, 1, 120_000))
    optimizer = cls([param], **options)
    param.grad = torch.linspace(1, 2, 120_000)
    optimizer.step()
    return optimizer, param


@pytest.mark.parametrize("loaded", [AdamW8bit, PagedAdamW8bit])
@pytest.mark.parametrize("saved", [AdamW8bit, PagedAdamW8bit])
def test_training_continues(saved, loaded, tmp_path):
    optimizer, param = stepped(saved)
    save_checkpoint(optimizer, tmp_path / "state.pt")
    assert os.listdir(tmp_path) == ["state.pt"]
    other, copied = stepped(loaded, lr=0.5)
    copied.data.copy_(param.detach())
    load_checkpoint(other, tmp_path / "state.pt")
    optimizer.step()
    other.step()
    assert torch.equal(param, copied)
    (tmp_path / "state.pt").unlink()
    other.step()  # what was loaded does not depend on the file


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    optimizer, _ = stepped(AdamW8bit)
    path = tmp_path / "state.pt"
    save_checkpoint(optimizer, path)
    before = path.read_bytes()

    def half(_state, file):
        file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    optimizer.step()
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(optimizer, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["state.pt"]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    optimizer, _ = stepped(AdamW8bit)
    events = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("sync folder" if folder else "sync file")
        sync(descriptor)

    def record(old, new):
        events.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", record)
    save_checkpoint(optimizer, tmp_path / "state.pt")
    assert events == ["sync file", "replace", "sync folder"]


def test_a_file_cut_short_is_refused_and_changes_nothing(tmp_path):
    optimizer, param = stepped(AdamW8bit)
    path = tmp_path / "state.pt"
    save_checkpoint(optimizer, path)
    content = path.read_bytes()
    codes = optimizer.state[param]["state1"].clone()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises((OSError, RuntimeError, EOFError)):
            load_checkpoint(optimizer, path)
    assert torch.equal(optimizer.state[param]["state1"], codes)
    assert optimizer.state[param]["step"] == 1
