"""Checkpoints in files: a crash leaves the old one or the new one, never a part."""

from __future__ import annotations

import os

import torch


def save_checkpoint(optimizer: torch.optim.Optimizer, path: str | os.PathLike[str]) -> None:
    """Writes an optimizer's state dict to a file, which replaces an older one as a whole.

    Paged state is written from where it is, and need not fit into memory.

    Args:
        optimizer: any optimizer.
        path: the file; its folder must have room for the old and the new one.

    Raises:
        OSError: if it cannot be written. A file that was there before is unchanged then.
    """
    unfinished = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "wb") as file:
            torch.save(optimizer.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())  # before the name: a new name for missing content is no use
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def load_checkpoint(optimizer: torch.optim.Optimizer, path: str | os.PathLike[str]) -> None:
    """Loads what `save_checkpoint` wrote, reading from the file as it copies.

    Args:
        optimizer: of the same kind, with parameters in the same groups and order.
        path: the file.

    Raises:
        OSError, RuntimeError: if the file cannot be read, or is cut short.
        TypeError, ValueError: as in `load_state_dict`. The optimizer is unchanged after errors.
    """
    optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _sync_folder(folder: str) -> None:
    """Makes the new name survive a loss of power, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
