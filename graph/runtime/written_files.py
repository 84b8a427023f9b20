"""Files that nodes write: find out whether one was changed, and remove it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def signature(path: Path) -> object:
    """A value that changes when a file is replaced or written; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def remove(path: Path) -> None:
    """Remove a file if it is there, and if that is allowed."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
