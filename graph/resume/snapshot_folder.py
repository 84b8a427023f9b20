"""The folder `.resume` of a run that is not done: how the run was started, and its last two snapshots."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..contract.errors import UnreadableFile
from ..contract.json_reader import read_json
from ..contract.output_files import replace_text
from . import snapshot_file
from .snapshot_file import Damaged, Snapshot

FOLDER, BEGUN = ".resume", "run.json"
VERSION = 1
NAME = re.compile(r"snapshot-(\d{6,})\.safetensors")
KEPT = 2
"""Complete snapshots that are kept: the last one, and one for the case that the disk loses it."""
LARGEST = 256 << 20


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

    def add(self, snapshot: Snapshot) -> Path:
        """Write the next snapshot, then remove those before the last two.

        Raises:
            OSError: If it cannot be written. The earlier ones are unchanged then.
        """
        names = self._names()
        number = max(names, default=0) + 1
        path = self.path / f"snapshot-{number:06}.safetensors"
        snapshot_file.write(snapshot, path)
        for old in sorted(names, reverse=True)[KEPT - 1 :]:
            with suppress(OSError):
                (self.path / names[old]).unlink()
        return path

    def has_snapshots(self) -> bool:
        """Whether there is a file of a snapshot."""
        return bool(self._names())

    def snapshots(self) -> Iterator[tuple[Path, Snapshot | str]]:
        """Each snapshot, the newest first; for a damaged one, the reason in words."""
        names = self._names()
        for number in sorted(names, reverse=True):
            path = self.path / names[number]
            try:
                yield path, snapshot_file.read(path)
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

    def _names(self) -> dict[int, str]:
        with suppress(OSError):
            return {int(found[1]): name for name in os.listdir(self.path) if (found := NAME.fullmatch(name))}
        return {}
