"""The caches of compiled kernels and of choices among kernels: their sizes, and removing them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from ...contract import kernel_caches
from ...contract.kernel_caches import KernelCache
from ...contract.node_library import NodeLibrary
from .leftovers import Leftover, file_size, files_below

IN_USE = "a process that uses it is at work"


@dataclass(frozen=True)
class CacheState:
    """A cache on this machine.

    Attributes:
        cache: The cache.
        path: Its folder; None if there can be none.
        size: Bytes of its files.
        entries: Number of the files and folders in it.
    """

    cache: KernelCache
    path: Path | None
    size: int
    entries: int

    @property
    def foreign(self) -> bool:
        """Whether the environment names another folder than sgd's."""
        return self.path != self.cache.own()


def cache_states(libraries: Iterable[NodeLibrary]) -> list[CacheState]:
    """The caches of the libraries."""
    found = []
    for cache in kernel_caches.caches_of(libraries):
        path = cache.place()
        names = os.listdir(path) if path is not None and path.is_dir() else []
        size = sum(map(file_size, files_below(path))) if path is not None and names else 0
        found.append(CacheState(cache, path, size, len(names)))
    return found


def removable() -> list[Leftover]:
    """The folders in `sgd/kernels`, also those of earlier versions."""
    root = kernel_caches.kernels_folder()
    if root is None:
        return []
    folders = (path for path in sorted(root.iterdir()) if path.name != kernel_caches.LOCK)
    return [Leftover(path, sum(map(file_size, files_below(path))), "compiled kernels", None) for path in folders]


def kept_elsewhere(libraries: Iterable[NodeLibrary]) -> list[str]:
    """Caches that stay, since the environment names another folder for them than sgd's; a line for each."""
    return [
        f"{each.path}: {each.cache.variable} names it, so it is not sgd's"
        for each in cache_states(libraries)
        if each.foreign and each.entries
    ]


def remove_caches(found: Sequence[Leftover]) -> list[tuple[Leftover, str]]:
    """Remove caches, unless a process uses them. Returns those that stay, each with the reason."""
    if not found:
        return []
    with kernel_caches.alone(found[0].path.parent) as alone:
        if not alone:
            return [(each, IN_USE) for each in found]
        return [(each, reason) for each in found if (reason := _remove(each.path))]


def _remove(path: Path) -> str:
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            gone = path.with_name(f".removed-{token_hex(8)}")  # nobody sees half of a cache
            path.rename(gone)
            shutil.rmtree(gone)
    except OSError as error:
        return error.strerror or str(error)
    return ""
