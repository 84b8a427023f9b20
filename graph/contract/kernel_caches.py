"""Caches of compiled kernels, in the user's cache folder: `sgd/kernels`, one folder for each cache.

Packages read the places of their caches from variables of the environment. `prepare` sets these before a package is
imported. A variable that is set already stays as it is. The packages themselves write their files in one step, so that
several processes can share a cache; a process that uses the folder holds a shared lock, and removing needs all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import file_locks
from .user_cache import user_cache

LOCK = "in-use.lock"

_locks: dict[Path, int] = {}
"""Descriptors of the locks that this process holds until it ends, by file."""

_set: dict[str, str] = {}
"""The variables that `prepare` has set, with their values. Another value is the user's own."""


@dataclass(frozen=True)
class KernelCache:
    """A cache of kernels, or of choices among kernels.

    Attributes:
        name: What it holds, for `sgd doctor`.
        folder: Its folder in `sgd/kernels`.
        variable: The variable of the environment that names its place; empty if the library itself keeps the files.
        switches: Further variables that switch the cache on, with their values.
    """

    name: str
    folder: str
    variable: str = ""
    switches: tuple[tuple[str, str], ...] = ()

    def own(self) -> Path | None:
        """The folder in the user's cache, which may not exist yet; None if there can be no such folder."""
        root = kernels_folder()
        return None if root is None else root / self.folder

    def place(self) -> Path | None:
        """The folder in use: the one that the environment names, or else the own one."""
        named = os.environ.get(self.variable, "") if self.variable else ""
        return Path(named) if named and named != _set.get(self.variable) else self.own()


def kernels_folder() -> Path | None:
    """The folder `sgd/kernels` in the user's cache, made for this user alone; None if there can be no such folder.

    Packages load code from it. A folder of another user is therefore not used.
    """
    base = user_cache()
    if base is None:
        return None
    folder = base / "kernels"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not folder.is_symlink() and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid()):
            if found.st_mode & 0o077:
                folder.chmod(0o700)
            return folder
    return None


class HasCaches(Protocol):
    """A node library, as far as this module knows it."""

    @property
    def kernel_caches(self) -> Sequence[KernelCache]: ...


def caches_of(libraries: Iterable[HasCaches]) -> list[KernelCache]:
    """The caches of libraries, each once."""
    return list(dict.fromkeys(cache for library in libraries for cache in library.kernel_caches))


def prepare(libraries: Iterable[HasCaches]) -> None:
    """Name the places of the libraries' caches in the environment of this process, and hold the shared lock.

    Call it before anything imports the packages.
    """
    caches = caches_of(libraries)
    root = kernels_folder() if caches else None
    if root is None:
        return
    _share(root / LOCK)
    for cache in caches:
        for name, value in ([(cache.variable, str(root / cache.folder))] if cache.variable else []) + [*cache.switches]:
            if os.environ.get(name, "") in ("", _set.get(name)):
                os.environ[name] = _set[name] = value


def _share(path: Path) -> None:
    """Hold a shared lock on a file until the process ends."""
    if path not in _locks:
        descriptor = file_locks.share(path)
        if descriptor is not None:
            _locks[path] = descriptor


@contextmanager
def alone(root: Path) -> Iterator[bool]:
    """Whether no other process uses the folder of kernels; none begins to inside `with`."""
    held = _locks.pop(root / LOCK, None)
    if held is not None:
        os.close(held)
    try:
        with file_locks.alone(root / LOCK) as free:
            yield free
    finally:
        if held is not None:
            _share(root / LOCK)
