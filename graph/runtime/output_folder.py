"""An output folder belongs to one run: a lock, and a journal of the files that the run has not finished.

Both lie in the folder while the run is under way. The lock (`.sgd.lock`) is one of the operating system, which gives it
up when the process ends, whatever ends it. The journal (`.sgd.journal`) names the run for others that want the folder,
and lists its temporary files, so that the next run removes those of a run that was killed, and no other file.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import output_files
from ..contract.errors import NodeError
from ..contract.text_tables import shortened

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK, JOURNAL = ".sgd.lock", ".sgd.journal"
VERSION = 1
ATTEMPTS = 20
LONGEST = 64 << 20
"""Bytes of a journal that are read."""


class OutputFolder:
    """The output folder of a run that is under way.

    Attributes:
        path: The folder. It exists.
        left: The files that a killed run left in the folder, in words; empty if there was no such run.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Take the folder, and make it if it does not exist.

        Args:
            path: The folder.
            new: It must not exist.

        Raises:
            NodeError: If another run has it, or nothing can be written there.
            FileExistsError: If it exists and `new` is given.
        """
        self.path = path
        self.left = ""
        self._made: list[Path] = []
        self._lock: BaseFileLock | None = None
        self._journal = False
        try:
            self._take(new)
            self._begin_journal()
        except (OSError, ValueError) as error:
            if new and isinstance(error, FileExistsError) and self._lock is None and path.is_dir():
                raise
            self.release()
            self.remove_if_empty()
            reason = getattr(error, "strerror", None) or str(error)
            raise NodeError(f"cannot write to {shortened(path)}: {reason}", help="choose another --out") from error
        except BaseException:
            self.release()
            self.remove_if_empty()
            raise

    def _take(self, new: bool) -> None:
        from filelock import FileLock, Timeout

        for attempt in range(ATTEMPTS):
            self._make(new and not attempt)
            lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                raise NodeError(
                    f"{self.path} belongs to a run that is under way{_holder(self.path)}",
                    help="wait until it has ended, or choose another --out",
                ) from None
            except FileNotFoundError:  # another run that ended at once has removed the folder that it had made
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            self._lock = lock
            return

    def _make(self, new: bool) -> None:
        missing = []
        for folder in (self.path, *self.path.parents):
            if folder.exists():
                break
            missing.append(folder)
        self.path.mkdir(parents=True, exist_ok=not new)
        self._made = missing or self._made

    def _begin_journal(self) -> None:
        self._clean_up()
        program = Path(sys.argv[0] if sys.argv else "")
        name = program.parent.name if program.name == "__main__.py" else program.name
        words = [name, *(word if len(word) <= 200 else f"{word[:200]}…" for word in sys.argv[1:50])]
        entry = {
            "sgd journal": VERSION,
            "pid": os.getpid(),
            "host": platform.node(),
            "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            "command": shlex.join(words)[:1000],
        }
        output_files.create(self.path / JOURNAL)
        self._journal = True
        self._note(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self.path / JOURNAL, flags)
        try:
            line = (json.dumps(entry) + "\n").encode()
            if os.write(descriptor, line) != len(line):
                raise OSError(0, "the disk is full")
        finally:
            os.close(descriptor)

    def _clean_up(self) -> None:
        """Remove the temporary files of a run that was killed, and say what it left."""
        entries = _read(self.path)
        if entries is None:
            return
        first, *rest = entries or [{}]
        removed = sum(_remove(self.path, str(entry["temporary"])) for entry in rest if "temporary" in entry)
        begun = [str(entry["begun"]) for entry in rest if "begun" in entry]
        kept = [str(entry["finished"]) for entry in rest if "finished" in entry]
        half = [name for name in dict.fromkeys(begun) if name not in kept and os.path.lexists(self.path / name)]
        kept = [name for name in dict.fromkeys(kept) if os.path.lexists(self.path / name)]
        parts = [f"finished files: {', '.join(kept) or 'none'}"]
        parts += [f"perhaps unfinished: {', '.join(half)}"] if half else []
        parts += [f"temporary files removed: {removed}"] if removed else []
        self.left = f"an earlier run was killed here{_named(first)}; it left no record; {'; '.join(parts)}"
        (self.path / JOURNAL).unlink()

    def temporary(self, target: Path) -> Path:
        """A new empty file beside `target`, listed in the journal.

        Raises:
            OSError: If it cannot be created.
        """
        path = output_files.temporary_path(target)
        self._note({"temporary": self._name(path)})
        output_files.create(path)
        return path

    def noted(self, target: Path) -> Path:
        """A path for a temporary file beside `target`, listed in the journal if the disk has room for that."""
        path = output_files.temporary_path(target)
        with suppress(OSError):
            self._note({"temporary": self._name(path)})
        return path

    def begun(self, target: Path) -> None:
        """Note that a node may write a file."""
        self._note({"begun": self._name(target)})

    def finished(self, target: Path) -> None:
        """Note that a node has written a file."""
        with suppress(OSError):
            self._note({"finished": self._name(target)})

    def _name(self, path: Path) -> str:
        root = self.path.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path.relative_to(self.path))

    def release(self) -> None:
        """Give the folder up. It has no more files of sgd then but outputs and the record."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        if self._journal:
            with suppress(OSError):
                (self.path / JOURNAL).unlink()
        with suppress(OSError):
            # Before the lock is free: who waits for it finds that its file is gone, and makes a new one.
            if os.lstat(self.path / LOCK).st_size == 0:
                (self.path / LOCK).unlink()
        lock.release()

    def remove_if_empty(self) -> None:
        """Remove the folders that were made for a run that did not begin, if they are empty."""
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()


def _read(folder: Path) -> list[dict[str, Any]] | None:
    """The entries of a journal; None without one.

    Raises:
        NodeError: If a file of its name is not a journal.
    """
    path = folder / JOURNAL
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _stranger(path) from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _stranger(path)
        lines = file.read(LONGEST).split(b"\n")
    found = list(_entries(lines[:-1]))  # the last line is empty, or was cut off when the run was killed
    if (found and found[0].get("sgd journal") != VERSION) or (not found and lines[0][:14] not in b'{"sgd journal"'):
        raise _stranger(path)
    return found


def _entries(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = {}
        yield entry if isinstance(entry, dict) else {}


def _stranger(path: Path) -> NodeError:
    return NodeError(f"{path} is not a journal of this version of sgd", help="remove it, or choose another --out")


def _holder(folder: Path) -> str:
    """The run that has a folder, for a message; empty if it cannot be read."""
    for _ in range(5):
        try:
            entries = _read(folder)
        except NodeError:
            return ""
        if entries:
            return _named(entries[0])
        time.sleep(0.02)  # it has the lock, and writes its journal now
    return ""


def _named(entry: dict[str, Any]) -> str:
    if "pid" not in entry:
        return ""
    host = str(entry.get("host", ""))
    where = f" on {host[:100]}" if host != platform.node() else ""
    started, command = str(entry.get("started", "?"))[:40], str(entry.get("command", "?"))[:300]
    return f" (pid {str(entry['pid'])[:20]}{where}, started {started}: {command})"


def _remove(folder: Path, name: str) -> bool:
    """Remove a temporary file that a journal lists. Files of other names, links and folders stay."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not output_files.TEMPORARY.fullmatch(path.name):
        return False
    target = folder / path
    try:
        inside = target.parent.resolve().is_relative_to(folder.resolve())
        if not inside or not stat.S_ISREG(os.lstat(target).st_mode):
            return False
        target.unlink()
    except OSError:
        return False
    return True
