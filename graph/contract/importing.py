"""Prepare the first import of the packages that node libraries need, such as torch."""

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
    """Surround the first import of the packages of some libraries.

    Caches of kernels get their places. In the process of the command, libraries prepare their imports, and Python's
    garbage collector waits. A program that calls `sgd.run` keeps its own imports and collector.
    """
    kernel_caches.prepare(libraries)
    if not installed():
        yield
        return
    for library in libraries:
        library.prepare_imports()
    with collector_paused(always=False):
        yield
