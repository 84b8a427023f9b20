"""Modules that other packages import at their top, and that a run seldom uses, are executed when they are first used.

`importlib.util.LazyLoader` does the same, but the second statement `import` of a module executes it, and in Python 3.11
two threads may meet a module that is half executed. It also executes a module for `from module import name`.

A module is executed in place, so that every reference to it stays right. The packages around it are executed before it,
as Python does. Afterwards nothing of the delay is left, except for the stand-ins that other modules have imported. A
package may put another module in its own place when it is executed, as transformers does; references to it then read
from that module.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import MappingProxyType, ModuleType
from typing import Any

from .stand_ins import StandIn

_lock = RLock()


ALL = "*"


def defer(
    name: str,
    *,
    inside: Collection[str] = (),
    stand_ins: Collection[str] = (),
    marks: Collection[str] = (),
    given: Mapping[str, Any] = MappingProxyType({}),
    homes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Execute the module `name` when one of its attributes is first read. Nothing happens if it is imported already.

    Args:
        name: The module.
        inside: If the module is a package: names of modules in it that may be imported before it is executed, or `ALL`.
            The import of any other one executes the package first.
        stand_ins: Functions and classes for which a statement `from name import …` gets a stand-in. The first use of
            the stand-in executes the module.
        marks: Functions that note their only argument and return it, such as decorators. Their stand-ins keep the
            argument, and hand it over when the module is executed.
        given: Other stand-ins by name, or attributes that are known already.
        homes: Places of attributes that a package takes from its modules: `package.module:attribute`, by name. Reading
            one imports that module and leaves the package as it is. If it is not there, the package is executed.
    """
    if name not in sys.modules and not any(isinstance(f, _Finder) and f.name == name for f in sys.meta_path):
        made = {each: StandIn(name, each, each in marks, _lock, resolve) for each in (*stand_ins, *marks)}
        sys.meta_path.insert(0, _Finder(name, inside, {**made, **given}, homes))


class _Finder(MetaPathFinder):
    """Finds one module as Python does, with a loader that waits."""

    def __init__(
        self, name: str, inside: Collection[str], stand_ins: Mapping[str, Any], homes: Mapping[str, str]
    ) -> None:
        self.name, self.inside, self.stand_ins, self.homes = name, inside, stand_ins, homes

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Waiting(spec.loader, self)
        return spec

    def home(self, name: str, path: Sequence[str] | None) -> str | None:
        """The place of an attribute that needs no execution of the module: its home, or a module of the package."""
        if name not in self.homes and ALL in self.inside and path is not None and not name.startswith("__"):
            module = f"{self.name}.{name}"
            return module if PathFinder.find_spec(module, path) is not None else None
        return self.homes.get(name)

    def found(self, module: ModuleType) -> None:
        """Look no more: the module is imported, and waits."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if hasattr(module, "__path__"):
            if ALL in self.inside:
                sys.meta_path.append(_LastFinder(self.name))
            else:
                sys.meta_path.insert(0, _InsideFinder(self.name, self.inside))


class _InsideFinder(MetaPathFinder):
    """Executes a deferred package when one of its modules is imported, which may import that module."""

    def __init__(self, package: str, free: Collection[str]) -> None:
        self.package, self.free = package, {f"{package}.{name}" for name in free}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.rpartition(".")[0] != self.package or fullname in self.free:
            return None
        package = sys.modules.get(self.package)
        if type(package) is not _Deferred:
            if type(package) is not _Executing and self in sys.meta_path:
                sys.meta_path.remove(self)
            return None
        _execute(package)
        found = sys.modules.get(fullname)
        if found is None:
            return None
        found.__spec__ = spec = ModuleSpec(fullname, _Found(found))  # Python takes the spec of a module that it finds
        return spec


class _LastFinder(MetaPathFinder):
    """Executes a deferred package when a module in it is not found, since the package may add finders of its own."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = sys.modules.get(self.package)
        if type(package) is _Deferred and fullname.startswith(f"{self.package}."):
            _execute(package)  # it may add finders, which Python asks next
        return None


class _Found(Loader):
    """Gives Python a module that was imported while Python looked for it."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Waiting(Loader):
    def __init__(self, own: Loader, finder: _Finder) -> None:
        self.own, self.finder = own, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # an ordinary module

    def exec_module(self, module: ModuleType) -> None:
        self.finder.found(module)
        module.__class__ = _Deferred


class _Deferred(ModuleType):
    """A module that is not executed yet."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # Python asks whether a module is a package, which has this from the beginning
            raise AttributeError(f"module {self.__name__!r} is no package")
        home = None
        with _lock:
            if type(self) is _Deferred:
                finder = vars(self)["__spec__"].loader.finder
                if name in finder.stand_ins:
                    return finder.stand_ins[name]
                home = finder.home(name, vars(self).get("__path__"))
                if home is None:
                    _execute(self)
        if home is not None:
            module, _, attribute = home.partition(":")
            try:
                found = import_module(module)  # without the lock: other threads import meanwhile
                return getattr(found, attribute) if attribute else found
            except (ImportError, AttributeError):
                _execute(self)
        return getattr(self, name)


class _Executing(_Deferred):
    """The module while its code runs. Another thread waits for the lock; this one finds the names made so far."""

    def __getattr__(self, name: str) -> Any:
        with _lock:
            if type(self) is _Executing:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


class _Replaced(ModuleType):
    """A module that has put another one in its place."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[self.__name__], name)


def resolve(name: str, attribute: str, execute: bool = True) -> Any:
    """An attribute of a module; None if the module is not executed yet and `execute` is false."""
    with _lock:
        module = sys.modules[name]
        if type(module) is _Deferred:
            if not execute:
                return None
            _execute(module)
    return getattr(module, attribute)


def _execute(module: ModuleType) -> None:
    """Execute a deferred module, after the packages around it."""
    with _lock:
        names = module.__name__.split(".")
        for length in range(1, len(names)):
            around = sys.modules.get(".".join(names[:length]))
            if type(around) is _Deferred:
                _execute(around)
        if type(module) is not _Deferred:  # a package around it has executed it
            return
        spec = module.__spec__
        assert spec is not None
        assert isinstance(spec.loader, _Waiting)
        waiting, own = spec.loader, spec.loader.own
        spec.loader = module.__loader__ = own
        module.__class__ = _Executing
        try:
            own.exec_module(module)
        except BaseException:
            module.__class__ = _Deferred
            spec.loader = module.__loader__ = waiting
            raise
        replaced = sys.modules.get(module.__name__) is not module
        module.__class__ = _Replaced if replaced else ModuleType  # type: ignore[assignment]
        for each in waiting.finder.stand_ins.values():
            if isinstance(each, StandIn):
                each.hand_over(module)
