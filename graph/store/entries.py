"""Files of stored results by key: written whole or not at all, the least recently used removed first.

Several processes may share a folder. A reader that opened a file keeps it, even if another process removes the name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..contract import file_locks
from ..contract.errors import NodeError
from ..contract.output_files import TEMPORARY
from ..contract.store_mark import MARK, in_store
from ..contract.user_cache import user_cache
from ..resume.snapshot_file import LONGEST, Damaged, Snapshot, read, write

NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
LOCK = ".lock"
LARGEST = 20 << 30
"""Most bytes of a store."""
SPARE = 2 << 30
"""Bytes of the disk that a store leaves free; at most a twentieth of the disk."""
LEFT_OVER = 3600.0
"""Seconds after which a temporary file belongs to a process that was killed."""


class Full(OSError):
    """The disk has no room for another entry."""


class Store(Protocol):
    """Where results are kept by key."""

    def has(self, key: str) -> bool:
        """Whether there is an entry. It may be damaged."""

    def read(self, key: str) -> Snapshot | None:
        """An entry whole; None if there is none.

        Raises:
            Damaged: If it is cut off or changed.
            OSError: If it cannot be read.
        """

    def content(self, key: str) -> Mapping[str, Any] | None:
        """The content of an entry without its arrays, unchecked; None if there is none."""

    def write(self, key: str, entry: Snapshot) -> None:
        """Keep an entry.

        Raises:
            OSError: If it cannot be written.
        """

    def drop(self, key: str) -> None:
        """Remove an entry."""


class MemoryStore:
    """A store of this process alone, such as for the runs of one sweep."""

    def __init__(self) -> None:
        self.entries: dict[str, Snapshot] = {}

    def has(self, key: str) -> bool:
        return key in self.entries

    def read(self, key: str) -> Snapshot | None:
        return self.entries.get(key)

    def content(self, key: str) -> Mapping[str, Any] | None:
        entry = self.entries.get(key)
        return entry.content if entry is not None else None

    def write(self, key: str, entry: Snapshot) -> None:
        arrays = [(number, replace(array, data=bytes(array.data))) for number, array in entry.arrays]
        self.entries[key] = Snapshot(entry.content, arrays)

    def drop(self, key: str) -> None:
        self.entries.pop(key, None)


@dataclass(frozen=True)
class Listed:
    """A file of a store: its path, bytes, time of the last use in seconds since 1970, and its content if asked for."""

    path: Path
    size: int
    used: float
    content: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        return self.path.stem


class FolderStore:
    """A store in a folder.

    Args:
        folder: The folder. It is made for this user alone.
        largest: Most bytes of all entries.

    Raises:
        NodeError: If the folder cannot be made, another user may write in it, or it holds other files.
    """

    def __init__(self, folder: Path, largest: int = LARGEST) -> None:
        self.folder, self.largest = folder.absolute(), largest
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = self.folder.stat()
            marked = (self.folder / MARK).exists()
            others = [] if marked else [name for name in os.listdir(self.folder) if not _is_own(name)]
        except OSError as error:
            raise NodeError(f"{folder} cannot be a store: {error.strerror or error}", help=HELP) from error
        if known.st_uid != os.geteuid() or known.st_mode & 0o022:
            raise NodeError(f"{folder} cannot be a store: other users may write in it", help=HELP)
        if in_store(self.folder.parent):
            raise NodeError(f"{folder} cannot be a store: it lies in another one", help=HELP)
        if others:
            raise NodeError(f"{folder} cannot be a store: it holds other files, such as {min(others)}", help=HELP)
        with suppress(OSError):  # a folder that can only be read
            if not marked:
                (self.folder / MARK).touch(0o600)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        return self.path(key).is_file()

    def read(self, key: str) -> Snapshot | None:
        path = self.path(key)
        try:
            found = read(path)
        except FileNotFoundError:
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def content(self, key: str) -> Mapping[str, Any] | None:
        path = self.path(key)
        with suppress(OSError):
            os.utime(path)
        return header(path)

    def write(self, key: str, entry: Snapshot) -> None:
        size = sum(len(array.data) for _, array in entry.arrays)
        room = shutil.disk_usage(self.folder)
        if size > self.largest or room.free - size < min(SPARE, room.total // 20):
            raise Full("the disk is nearly full")
        self.prune(self.largest - size)
        write(entry, self.path(key))
        with suppress(OSError):
            self.path(key).chmod(0o600)

    def drop(self, key: str) -> None:
        with suppress(OSError):
            self.path(key).unlink()

    def listed(self, contents: bool = False) -> list[Listed]:
        """All entries, the least recently used first. An entry whose header cannot be read has no content.

        Raises:
            OSError: If the folder cannot be read.
        """
        found = []
        for entry in os.scandir(self.folder):
            if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    known = entry.stat()
                    path = Path(entry.path)
                    found.append(Listed(path, known.st_size, known.st_mtime, header(path) if contents else None))
        return sorted(found, key=lambda each: (each.used, each.path))

    def prune(self, largest: int) -> list[Listed]:
        """Remove the least recently used entries until the others have at most this many bytes.

        Returns:
            The removed entries.

        Raises:
            OSError: If the folder cannot be read, or an entry cannot be removed.
        """
        removed = []
        with file_locks.alone(self.folder / LOCK) as alone:
            entries = self.listed() if alone else []
            total = sum(each.size for each in entries)
            for each in entries:
                if total <= largest:
                    break
                each.path.unlink(missing_ok=True)
                removed.append(each)
                total -= each.size
            self._tidy()
        return removed

    def _tidy(self) -> None:
        """Remove what processes left that were killed."""
        for entry in os.scandir(self.folder):
            if TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > LEFT_OVER:
                        os.unlink(entry.path)


def _is_own(name: str) -> bool:
    """Whether a file of this name may be one of a store."""
    return name == LOCK or NAME.fullmatch(name) is not None or TEMPORARY.fullmatch(name) is not None


HELP = "name another folder with --store, such as a new one, or use `--store off`"


def header(path: Path) -> Mapping[str, Any] | None:
    """The content of an entry, from its header alone; None if it has none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST:
                return None
            content = json.loads(json.loads(file.read(length))["__metadata__"]["content"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def damage(path: Path) -> str | None:
    """The damage of an entry; None if it is whole."""
    try:
        read(path)
    except Damaged as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    return None


def default_folder() -> Path | None:
    """The store in the user's cache folder; None if there can be no such folder."""
    cache = user_cache()
    return cache / "store" if cache is not None else None
