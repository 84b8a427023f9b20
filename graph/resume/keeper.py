"""Keeper: holds the last position of a run, and writes it from time to time, in a thread beside the run.

Every rank has a keeper if several ranks have parts of the states. The ranks write a position together when all have
reached it and rank 0 finds that a snapshot is due. At the end of the run, each rank writes the last position that all
have reached. A rank may not know yet whether that is its latest one, so it writes its latest two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from ..compiler.plan import Plan
from ..contract.array_storage import ArrayStorage
from .position import FinishedEffect, Position
from .snapshot_content import Kept, snapshot_of
from .snapshot_folder import SnapshotFolder
from .value_codec import Unstorable

SHARE = 0.01
"""Largest share of a run's time that writing snapshots takes."""


@dataclass(frozen=True)
class Facts:
    """Where a keeper finds the facts of a run.

    Attributes:
        record: Called in the run's thread: what the record knows now; the function that it gives makes plain data of
            that, in the thread that writes.
        choices: The choices of the run, and the files that it uses, as plain data.
        warn: Receives a warning.
    """

    record: Callable[[], Callable[[], dict[str, Any]]]
    choices: Callable[[], dict[str, Any]]
    warn: Callable[[str], None]


class Keeper:
    """Holds the last position of a run and writes it. The executor's thread calls the first three methods.

    Args:
        folder: The folder of the snapshots.
        plan: The plan.
        storages: The storages of arrays of the loaded libraries.
        every: Seconds from one snapshot to the next. It is longer where writing takes over 1 % of the time.
        facts: The facts of the run.
        files: Files of effects that were finished before, in a resumed run.
        rank: The rank of this process.
    """

    def __init__(
        self,
        folder: SnapshotFolder,
        plan: Plan,
        storages: Callable[[], Sequence[ArrayStorage]],
        every: float,
        facts: Facts,
        files: Sequence[Path] = (),
        rank: int = 0,
    ) -> None:
        self.folder, self.plan, self.storages, self.every, self.facts = folder, plan, storages, every, facts
        self.reason: str | None = None
        self.rank = rank
        self._files = list(files)
        self._last: Kept | None = None  # the last position
        self._offered: Kept | None = None  # the next one, which perhaps not all ranks have reached
        self._agreed: Kept | None = None  # one that all ranks write, until it is written
        self._written: Kept | None = None
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._over = False
        self._due = monotonic() + every
        self._thread: threading.Thread | None = None

    def reached(self, position: Position, number: int | None = None) -> None:
        """The run is between two turns. `number`: the number of the snapshot; the next one if not given."""
        self._set(self._kept(position, number))

    def offer(self, position: Position, number: int, ranks: int) -> None:
        """This rank is between two turns; `ranks` ranks write parts of the snapshot of this number."""
        self._offered = self._kept(position, number, ranks)

    def take(self, agreed: bool) -> None:
        """All ranks have reached the position that was offered. `agreed`: all ranks write it now."""
        assert self._offered is not None
        kept = replace(self._offered, agreed=agreed)
        with self._changed:
            self._agreed = kept if agreed else self._agreed
            self._set(kept)
        self._offered = None

    def withdraw(self, last: bool = False) -> None:
        """Drop the position that was offered. `last`: drop the one before too, which this rank need not write."""
        self._offered = None
        if last:
            self._last = self._written = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next snapshot."""
        return monotonic() >= self._due and self._agreed is None and not self._writing.locked()

    def _kept(self, position: Position, number: int | None, ranks: int = 1) -> Kept:
        # Work after the position may wait for ranks that have ended. A snapshot must not wait for that work.
        moments = tuple(storage.moment() for storage in self.storages()) if number is not None else ()
        return Kept(position, self.facts.record(), tuple(self._files), number=number, ranks=ranks, moments=moments)

    def unkept(self, loop: str, turn: int, reason: str) -> None:
        if self._last is not None:
            self._set(self._last.without(loop, turn, reason))

    def effect_finished(self, effect: FinishedEffect) -> None:
        self._files += effect.files
        if self._last is not None:
            self._set(self._last.after(effect))

    def _set(self, kept: Kept) -> None:
        with self._changed:
            self._last = kept
            if self._thread is None and not self._over:
                self._thread = threading.Thread(target=self._work, name="sgd snapshots", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._over and (kept := self._next()) is None:
                    idle = self._last is self._written
                    self._changed.wait(None if idle else max(self._due - monotonic(), 0.0) or None)
                if self._over:
                    return
            self._write(kept)

    def _next(self) -> Kept | None:
        """The position that is to be written now; None if there is none."""
        if self._agreed is not None:
            return self._agreed
        kept = self._last
        if kept is None or kept is self._written or (kept.ranks > 1 and not kept.agreed):
            return None
        return kept if monotonic() >= self._due else None

    def _write(self, kept: Kept | None) -> None:
        """Write a position, unless it is written or is the first step of the run."""
        with self._writing:
            began = monotonic()
            if kept is None or kept is self._written:
                return
            self._written = kept
            if kept.is_empty:
                return
            try:
                made = snapshot_of(kept, self.plan, self.storages(), self.folder.out, self.facts.choices())
                self.folder.add(made, kept.number, self.rank, kept.ranks)
                self.reason = None
            except Unstorable as error:
                self.reason = str(error)
            except OSError as error:
                if self.reason is None:
                    self.facts.warn(f"no snapshot was written to {self.folder.path}: {error.strerror or error}")
                self.reason = f"{error.strerror or error}"
            except Exception as error:
                if self.reason is None:
                    self.facts.warn(f"no snapshot was written: {type(error).__name__}: {error}")
                self.reason = f"{type(error).__name__}: {error}"
            with self._changed:
                self._agreed = None if self._agreed is kept else self._agreed
            seconds = monotonic() - began
            self._due = monotonic() + max(self.every, seconds / SHARE)

    def close(self, done: bool) -> None:
        """End the thread. Rank 0 removes the folder if the run is done; otherwise, write the last position.

        Raises:
            OSError: If the folder cannot be removed.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if not done:
            for kept in (self._agreed, self._last, self._offered):
                self._write(kept)
            return
        if self._thread is not None:
            self._thread.join()
        if self.rank == 0:
            self.folder.remove()
