"""Results that appear under their final name only when they are complete."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that gets its name when the block succeeds.

    Args:
        path: The final name. Its parent folders are made.

    Yields:
        The folder to write into. After an error in the block it is removed.

    Raises:
        FileExistsError: If something has that name already, at the start or at the end.
    """
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _temporary_name(path)
    unfinished.mkdir()
    try:
        yield unfinished
        _refuse_existing(path)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` for a file that replaces it when the block succeeds.

    Args:
        path: The final name. Its parent folders are made.

    Yields:
        The name to write to. After an error in the block the file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _temporary_name(path)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} exists already")
