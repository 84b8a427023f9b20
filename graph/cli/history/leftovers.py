"""Things that may be removed: files that killed runs left, and with a word of the user, failed and interrupted runs.

A finished run is never removed, and neither is a run that is under way: its folder is locked while the files go.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...contract.output_files import TEMPORARY
from ...runtime.context import RECORD
from ...runtime.output_folder import JOURNAL, LOCK
from .run_list import RunEntry, recorded, runs_in, under_way

OLD = 24 * 3600.0
"""Seconds after which a temporary file that no journal lists is a leftover."""


@dataclass(frozen=True)
class Leftover:
    """Something that may be removed.

    Attributes:
        path: A file, or the folder of a run.
        size: Its size in bytes.
        what: Its kind, in words.
        run: The folder of the run that it belongs to; None for a file outside of runs.
    """

    path: Path
    size: int
    what: str
    run: Path | None


@dataclass(frozen=True)
class Kept:
    """A failed run that stays, and the reason."""

    path: Path
    why: str


def leftovers(folder: Path, failed: bool) -> tuple[list[Leftover], list[Kept]]:
    """Find the things in a folder that may be removed.

    Args:
        folder: Where runs are.
        failed: Whether runs that failed, were interrupted or killed are removed with all their files.
    """
    runs = runs_in(folder)
    gone: list[Leftover] = []
    kept: list[Kept] = []
    for run in runs:
        if failed and run.state in ("failed", "interrupted", "killed"):
            why = _reason_to_keep(run, runs, folder)
            if why:
                kept.append(Kept(run.folder, why))
            else:
                size = sum(file_size(path) for path in files_below(run.folder))
                gone.append(Leftover(run.folder, size, f"a run that {_ended(run.state)}", run.folder))
    whole = [each.path for each in gone]
    busy = [run.folder for run in runs if run.state == "running"]
    dead = {run.folder for run in runs if run.state == "killed"}
    folders = sorted((run.folder for run in runs), key=lambda path: -len(path.parts))
    for path in files_below(folder):
        if any(path.is_relative_to(other) for other in (*whole, *busy)):
            continue
        here = path.parent
        owner = next((other for other in folders if path.is_relative_to(other)), None)
        of_dead = any(path.is_relative_to(other) for other in dead)
        if TEMPORARY.fullmatch(path.name) and (of_dead or _age(path) > OLD):
            gone.append(Leftover(path, file_size(path), "a temporary file of a killed run", owner))
        elif path.name == LOCK and not under_way(here):
            gone.append(Leftover(path, file_size(path), "the lock of a run that has ended", here))
        elif path.name == JOURNAL and here not in dead:
            gone.append(Leftover(path, file_size(path), "the journal of a run that has ended", here))
    return gone, kept


def _ended(state: str) -> str:
    return {"failed": "failed", "interrupted": "was interrupted", "killed": "was killed"}[state]


def _reason_to_keep(run: RunEntry, runs: list[RunEntry], folder: Path) -> str:
    """Why a run that did not finish is not removed; empty if it is."""
    if os.path.abspath(run.folder) == os.path.abspath(folder):
        return "it is the folder itself"
    for other in runs:
        is_inside = other.folder != run.folder and other.folder.is_relative_to(run.folder)
        if is_inside and other.state in ("done", "running"):
            return f"{other.folder} in it is {other.state}"
    if run.started is None:
        return "it is not known when it began, so its files may be older"
    for path in files_below(run.folder):
        if path.name not in (RECORD, LOCK, JOURNAL) and _changed(path) < run.started.timestamp() - 1:
            return f"{path.name} in it is older than the run"
    return ""


def remove(each: Leftover) -> str:
    """Remove a leftover. Returns the reason if it could not be removed, else an empty text."""
    from filelock import FileLock, Timeout

    lock = (each.run or each.path.parent) / LOCK
    held = None
    try:
        if each.run is not None and each.run.is_dir() and not lock.is_symlink():
            held = FileLock(lock, timeout=0, thread_local=False)
            held.acquire()
        if each.path == each.run:
            if recorded(each.path).state == "done":
                return "a run finished there meanwhile"
            shutil.rmtree(each.path)
        else:
            each.path.unlink(missing_ok=True)
    except Timeout:
        held = None
        return "a run is under way there"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        if held is not None:
            with suppress(OSError):
                if os.lstat(lock).st_size == 0:
                    lock.unlink()
            held.release()
    return ""


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder; links are files and are not followed."""
    root = os.path.abspath(folder)
    for path, folders, files in os.walk(root):
        here = folder / Path(path).relative_to(root)
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        yield from (here / name for name in (*files, *links))


def file_size(path: Path) -> int:
    """Bytes of a regular file; 0 for a link, and for a file that is gone."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()


def _age(path: Path) -> float:
    return time.time() - _changed(path)
