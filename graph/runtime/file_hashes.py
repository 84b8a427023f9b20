"""SHA-256 of files, remembered between runs in the user's cache folder.

A remembered hash counts while path, device, inode, size and both times of the file are the same. A file that changed
less than `SETTLED` seconds ago is not remembered, since a change within the same tick of the clock would not be seen.
The memory is one SQLite file, which several processes share. Nothing of it is an error: without it, files are hashed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from .cache_table import CacheTable

_TABLE = CacheTable(
    "file-hashes.sqlite",
    "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, state TEXT, sha256 TEXT, made REAL)",
)
SETTLED = 2.0
BLOCK = 4 << 20
MOST = 20_000
"""Hashes that are kept. The oldest go first."""

Key = tuple[str, int, int, int, int, int]


class Stopped(Exception):
    """Hashing was stopped before the end of a file."""


def sha256_of(
    path: Path, stop: Callable[[], bool] = lambda: False, advance: Callable[[int], None] | None = None
) -> str:
    """The SHA-256 of all bytes of a file, in hexadecimal.

    Args:
        path: The file.
        stop: Asked after each block; when true, `Stopped` is raised.
        advance: Called with the number of bytes of each block.

    Raises:
        OSError: If the file cannot be read.
        Stopped: If `stop` was true.
        ValueError: If the file changed while it was read.
    """
    place = path.resolve()
    with place.open("rb", buffering=0) as file:
        before = _key(place, os.fstat(file.fileno()))
        known = _remembered(before)
        if known is not None:
            if advance is not None:
                advance(before[3])
            return known
        digest, block = hashlib.sha256(), bytearray(BLOCK)
        view = memoryview(block)
        while count := file.readinto(block):
            digest.update(view[:count])
            if advance is not None:
                advance(count)
            if stop():
                raise Stopped
        if _key(place, os.fstat(file.fileno())) != before:
            raise ValueError(f"{path} changed while it was read")
    found = digest.hexdigest()
    if time.time_ns() - max(before[4:]) > SETTLED * 1e9:
        _remember(before, found)
    return found


def remembered_sha256(path: Path) -> str | None:
    """The SHA-256 of a file, if it is remembered.

    Raises:
        OSError: If there is no such file.
    """
    place = path.resolve()
    return _remembered(_key(place, place.stat()))


def _key(path: Path, known: os.stat_result) -> Key:
    return (str(path), known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns)


def _remembered(key: Key) -> str | None:
    rows = _TABLE.ask("SELECT sha256 FROM hashes WHERE path = ? AND state = ?", (key[0], _state(key)))
    found = rows[0][0] if rows else None
    return found if isinstance(found, str) and len(found) == 64 else None


def _remember(key: Key, sha256: str) -> None:
    _TABLE.ask("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", (key[0], _state(key), sha256, time.time()))
    oldest = "SELECT path FROM hashes ORDER BY made DESC LIMIT -1 OFFSET ?"
    _TABLE.ask(f"DELETE FROM hashes WHERE path IN ({oldest})", (MOST,))


def _state(key: Key) -> str:
    return ":".join(map(str, key[1:]))
