"""Components that stay in memory without a holder, in a session, and the stamps of the files that they come from."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ....graph.contract.node import Run
from ..repository.repository import Repository

if TYPE_CHECKING:
    from ..checkpoints.checkpoint_source import Checkpoint
    from .offloading import Offload

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""Paths of files with size, both times of change in ns, and inode. Whoever writes a file changes its stamp."""

_turns = itertools.count()


class Keeper(Protocol):
    """A session, for the components of one model."""

    def make_room(self, size: int, run: Run) -> None:
        """Drop idle components until there is room for a new one of this size."""

    def has_room(self, size: int, run: Run) -> bool:
        """Whether there is room for a new component of this size beside the idle ones."""

    def drop_oldest(self, device: str) -> bool:
        """Drop the component that has been idle on a device for the longest time. Returns False if there is none."""

    def shared(self, made: Any, run: Run) -> Any:
        """The components that an earlier run left for the same model on the same device, or `made` itself."""


class Idle:
    """The idle components of one model.

    Attributes:
        since: The idle components, with a number that grows with the time of their release.
        distrusted: Components that are dropped at their release, because a run failed while they were in use.
    """

    def __init__(self) -> None:
        self.since: dict[tuple[str, Offload | None], int] = {}
        self.distrusted: set[str] = set()
        self._reused: list[str] = []
        self._run: weakref.ref[Run] | None = None

    def reuse(self, part: str, placed: Offload | None, run: Run) -> str | None:
        """The components that a run has found in memory, as text, if this one is among them; else None."""
        if self.since.pop((part, placed), None) is None:
            return None
        if self._run is None or self._run() is not run:
            self._run, self._reused = weakref.ref(run), []
        self._reused.append(part)
        return ", ".join(self._reused)

    def rest(self, part: str, placed: Offload | None) -> bool:
        """Whether a component that has lost its last holder stays."""
        if part in self.distrusted:
            self.distrusted.discard(part)
            return False
        self.since[part, placed] = next(_turns)
        return True


def stamp(paths: Iterable[Path]) -> Stamp:
    """The stamp of files. A file that is not there is left out."""
    found = []
    for path in paths:
        with suppress(OSError):
            known = path.stat()
            found.append((str(path), known.st_size, known.st_mtime_ns, known.st_ctime_ns, known.st_ino))
    return tuple(sorted(found))


def files_of(repository: Repository, part: str, checkpoint: Checkpoint | None) -> list[Path]:
    """The files that decide what a component is: its checkpoint, or all files of its folder."""
    if checkpoint is not None:
        return [] if checkpoint.file is None else [checkpoint.file]
    with suppress(OSError):
        return [path for path in (repository.folder / part).iterdir() if path.is_file()]
    return []
