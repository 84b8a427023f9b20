"""Modules that other packages import at their top, and that a run seldom uses, are executed when they are first used.

`importlib.util.LazyLoader` does the same, but the second statement `import` of a module executes it, and in Python 3.11
two threads may meet a module that is half executed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

_lock = RLock()


def defer(name: str) -> None:
    """Execute the module `name` when one of its attributes is first read. Nothing happens if it is imported already."""
    if name not in sys.modules and not any(isinstance(f, _Finder) and f.name == name for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name))


class _Finder(MetaPathFinder):
    """Finds one module as Python does, with a loader that waits."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Waiting(spec.loader)
        return spec


class _Waiting(Loader):
    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # an ordinary module

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Deferred
        module.__dict__.pop("__path__", None)  # a package needs it for the import of a submodule, which executes it too


class _Deferred(ModuleType):
    """A module that is not executed yet. It is executed in place, so that every reference to it stays right."""

    def __getattr__(self, name: str) -> Any:
        with _lock:
            if type(self) is _Deferred:
                self.__class__ = _Executing
                try:
                    self._execute()
                except BaseException:
                    self.__class__ = _Deferred
                    raise
                self.__class__ = ModuleType  # type: ignore[assignment]
        return getattr(self, name)

    def _execute(self) -> None:
        spec = self.__spec__
        assert spec is not None
        assert isinstance(spec.loader, _Waiting)
        waiting, own = spec.loader, spec.loader.own
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        spec.loader = self.__loader__ = own
        try:
            own.exec_module(self)
        except BaseException:
            spec.loader = self.__loader__ = waiting
            self.__dict__.pop("__path__", None)
            raise


class _Executing(_Deferred):
    """The module while its code runs. Another thread waits for the lock; this one finds the names made so far."""

    def __getattr__(self, name: str) -> Any:
        with _lock:
            if type(self) is _Executing:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)
