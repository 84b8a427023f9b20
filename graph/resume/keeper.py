"""Keeper: holds the last position of a run, and writes it from time to time, in a thread beside the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """

    def __init__(
        self,
        folder: SnapshotFolder,
        plan: Plan,
        storages: Callable[[], Sequence[ArrayStorage]],
        every: float,
        facts: Facts,
        files: Sequence[Path] = (),
    ) -> None:
        self.folder, self.plan, self.storages, self.every, self.facts = folder, plan, storages, every, facts
        self.reason: str | None = None
        self._files = list(files)
        self._last: Kept | None = None
        self._written: Kept | None = None
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._over = False
        self._due = monotonic() + every
        self._thread: threading.Thread | None = None

    def reached(self, position: Position) -> None:
        self._set(Kept(position, self.facts.record(), tuple(self._files)))

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
                while not self._over and (self._last is self._written or monotonic() < self._due):
                    self._changed.wait(None if self._last is self._written else max(self._due - monotonic(), 0.0))
                if self._over:
                    return
            self.write()

    def write(self) -> bool:
        """Write the last position, unless it is written. Whether a snapshot of it is on the disk."""
        with self._writing:
            kept, began = self._last, monotonic()
            if kept is None or kept is self._written:
                return kept is not None and self.reason is None
            try:
                self.folder.add(snapshot_of(kept, self.plan, self.storages(), self.folder.out, self.facts.choices()))
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
            self._written = kept
            seconds = monotonic() - began
            self._due = monotonic() + max(self.every, seconds / SHARE)
            return self.reason is None

    def close(self, done: bool) -> None:
        """End the thread. Remove the folder of a run that is done, and write the last position of every other.

        Raises:
            OSError: If the folder cannot be removed.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if not done:
            self.write()
            return
        if self._thread is not None:
            self._thread.join()
        self.folder.remove()

    @property
    def turns(self) -> Mapping[str, int]:
        """The finished turns of the loops under way at the last position."""
        return {} if self._last is None else {each.loop: each.turn for each in self._last.position.levels}
