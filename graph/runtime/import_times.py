"""Imports during a run, taken out of the times of nodes.

Libraries import modules when they are first needed, which may be in the middle of a node. While a clock is watched,
Python's own loaders of files tell it when they begin and end. Nothing is told when nothing is imported, so this costs
nothing then. `kernel_times.py` does the same for kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from threading import RLock
from typing import Any

from .clock import IMPORT, Clock
from .kernel_times import MODULES, KernelTimes

METHODS = ((SourceFileLoader, "exec_module"), (ExtensionFileLoader, "create_module"))

_watched: list[Clock] = []
_before: dict[tuple[type, str], Callable[..., Any]] = {}
_lock = RLock()


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Inside `with`, imports count as `IMPORT` and built kernels as `KERNELS`, if the clock's thread does it."""
    if id(clock) in _kernels:  # it is watched already
        yield
        return
    kernels = KernelTimes(clock)
    with _lock:
        if not _watched:
            _install()
        _watched.append(clock)
        _kernels[id(clock)] = kernels
    kernels.register()
    try:
        yield
    finally:
        with _lock:
            _watched.remove(clock)
            del _kernels[id(clock)]
            if not _watched:
                _remove()
        kernels.unregister()


_kernels: dict[int, KernelTimes] = {}


def _install() -> None:
    for owner, name in METHODS:
        original = _before[owner, name] = getattr(owner, name)
        setattr(owner, name, _timed(original))


def _remove() -> None:
    """Put the loaders' own methods back. `SourceFileLoader` inherits one of them."""
    for owner, name in METHODS:
        original = _before.pop((owner, name))
        delattr(owner, name)
        if getattr(owner, name, None) is not original:
            setattr(owner, name, original)


def _timed(original: Callable[..., Any]) -> Callable[..., Any]:
    def timed(loader: Any, given: Any) -> Any:
        clocks = [clock for clock in _watched if clock.mine and clock.owner != IMPORT]
        for clock in clocks:
            clock.enter(IMPORT)
        try:
            return original(loader, given)
        finally:
            for clock in clocks:
                clock.leave()
            if getattr(given, "__name__", "") in MODULES:
                for kernels in list(_kernels.values()):
                    kernels.register()

    return timed
