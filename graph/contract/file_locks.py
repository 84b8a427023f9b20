"""Locks of files between processes. Systems without such locks have none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def share(path: Path) -> int | None:
    """Hold a shared lock on a file, which the descriptor that is returned keeps; None if there is none to have."""
    with suppress(ImportError, OSError):
        import fcntl

        descriptor = _opened(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return descriptor
    return None


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Hold the lock on a file alone inside `with`; False if another process holds it."""
    try:
        import fcntl
    except ImportError:
        yield True
        return
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
