"""The folder `.resume` of a run that is not done: how the run was started, and its last two snapshots.

A snapshot has one file for each rank if several processes have parts of the states. `snapshot-000007-1of2.safetensors`
is the file of rank 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contract.errors import UnreadableFile
from ..contract.json_reader import read_json
from ..contract.output_files import replace_text
from . import snapshot_file
from .snapshot_file import Damaged, Snapshot

FOLDER, BEGUN = ".resume", "started.json"
VERSION = 2
NAME = re.compile(r"snapshot-(\d{6,})(?:-(\d+)of(\d+))?\.safetensors")
KEPT = 2
"""Complete snapshots that are kept: the last one, and one for the case that the disk loses it."""
LARGEST = 256 << 20

Numbered = tuple[int, int]
"""The number of a snapshot, and the number of its files."""


class SnapshotFolder:
    """The folder of snapshots of one run.

    Args:
        out: The output folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / FOLDER

    def exists(self) -> bool:
        """Whether there is a folder of this name; a link is none."""
        with suppress(OSError):
            return stat.S_ISDIR(os.lstat(self.path).st_mode)
        return False

    def has_begun(self) -> bool:
        """Whether the folder says how a run was started, so that the run may go on."""
        return self.exists() and (self.path / BEGUN).exists()

    def begin(self, started: dict[str, Any]) -> None:
        """Replace the folder by that of a new run.

        Args:
            started: How the run was started, as plain data.

        Raises:
            OSError: If it cannot be written.
        """
        self.remove()
        self.path.mkdir()
        replace_text(self.path / BEGUN, json.dumps({"resume": VERSION, **started}, indent=1) + "\n")
        snapshot_file.flush_folder(self.path)
        snapshot_file.flush_folder(self.out)

    def started(self) -> dict[str, Any]:
        """How the run was started.

        Raises:
            UnreadableFile: If that cannot be read.
        """
        found = read_json(self.path / BEGUN, most=LARGEST)
        if not isinstance(found, dict) or not isinstance(found.get("resume"), int):
            raise UnreadableFile(f"{self.path / BEGUN} does not say how a run was started")
        if found["resume"] != VERSION:
            message = f"{self.path / BEGUN} is of version {found['resume']}, and this sgd reads version {VERSION}"
            raise UnreadableFile(message, help="go on with the sgd that began the run")
        return found

    def add(self, snapshot: Snapshot, number: int | None = None, rank: int = 0, ranks: int = 1) -> Path:
        """Write a snapshot, or the part of a rank. Rank 0 then removes those that are not needed any more.

        The last two stay. So does the last complete one, which may be older: a rank that is killed writes no part.

        Args:
            snapshot: The snapshot, or the part.
            number: Its number; the next one if not given. A file of this number is replaced.
            rank: The rank that writes it.
            ranks: The number of ranks that write parts of it.

        Raises:
            OSError: If it cannot be written. The earlier ones are unchanged then.
        """
        found = self._files()
        number = number or self.last() + 1
        path = self.path / f"snapshot-{number:06}{f'-{rank}of{ranks}' if ranks > 1 else ''}.safetensors"
        whole = [n for (n, count), files in found.items() if n != number and _missing(count, files) is None]
        snapshot_file.write(snapshot, path)
        if rank == 0:
            kept = sorted({number, *(n for n, _ in found)}, reverse=True)[:KEPT] + sorted(whole)[-1:]
            for old in (name for (n, _), files in found.items() if n not in kept for name in files.values()):
                with suppress(OSError):
                    (self.path / old).unlink()
        return path

    def last(self) -> int:
        """The number of the last snapshot; 0 if there is none."""
        return max((number for number, _ in self._files()), default=0)

    def has_snapshots(self) -> bool:
        """Whether there is a file of a snapshot."""
        return bool(self._files())

    def snapshots(self) -> Iterator[tuple[Path, Snapshot | str]]:
        """Each snapshot, the newest first; for a damaged one, the reason in words."""
        for (_, ranks), files in sorted(self._files().items(), reverse=True):
            path = self.path / next(iter(files.values()))
            missing = _missing(ranks, files)
            if missing is not None:
                yield path, f"{path} lacks the part of rank {missing}"
                continue
            try:
                first, *parts = (snapshot_file.read(self.path / files[rank]) for rank in range(ranks))
                yield path, replace(first, parts=tuple(parts))
            except Damaged as error:
                yield path, str(error)
            except OSError as error:
                yield path, f"cannot read {path}: {error.strerror or error}"

    def remove(self) -> None:
        """Remove the folder, if there is one.

        Raises:
            OSError: If it cannot be removed.
        """
        if self.exists():
            shutil.rmtree(self.path)

    def _files(self) -> dict[Numbered, dict[int, str]]:
        """The names of the files of each snapshot, by rank."""
        found: dict[Numbered, dict[int, str]] = {}
        with suppress(OSError):
            for name in sorted(os.listdir(self.path)):
                if named := NAME.fullmatch(name):
                    found.setdefault((int(named[1]), int(named[3] or 1)), {})[int(named[2] or 0)] = name
        return found


def _missing(ranks: int, files: Mapping[int, str]) -> int | None:
    """The first rank whose part is missing; None if none is."""
    return next((rank for rank in range(ranks) if rank not in files), None)
