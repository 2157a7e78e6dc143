"""Writing files so that a reader sees the old one or the new one, and never a part."""

import errno
import os
import tempfile
from pathlib import Path

__all__ = ["try_target", "write_text"]


def try_target(path: Path) -> None:
    """Find out whether `write_text` could write to a path, without changing what is there.

    Raises:
        OSError: if it could not.
    """
    if _is_special(path):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return
    handle, temporary = _open_beside(path)
    os.close(handle)
    temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name beside its target, then rename it.

    A target that a new file must not take the place of (a pipe, a device, a link) is written to.

    Raises:
        OSError: if the folder does not exist or cannot be written to.
    """
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    handle, temporary = _open_beside(path)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_special(path: Path) -> bool:
    """Whether something is there that is not simply a file."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def _open_beside(path: Path) -> tuple[int, Path]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    return handle, Path(name)
