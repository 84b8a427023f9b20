"""The first import of packages that node libraries need, such as torch: what is set before, and what waits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from . import kernel_caches
from .collector import collector_paused
from .interrupts import installed


class HasImports(kernel_caches.HasCaches, Protocol):
    """A node library, as far as this module knows it."""

    def prepare_imports(self) -> None: ...


@contextmanager
def importing(libraries: Collection[HasImports]) -> Iterator[None]:
    """Surrounds the first import of packages of some libraries.

    Caches of kernels get their places. In the process of the command, libraries prepare their imports, and Python's
    garbage collector waits. In a program, imports and the collector are the program's own.
    """
    kernel_caches.prepare(libraries)
    if not installed():
        yield
        return
    for library in libraries:
        library.prepare_imports()
    with collector_paused(always=False):
        yield
