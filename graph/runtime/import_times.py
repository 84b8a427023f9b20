"""Imports and compilation during a run, taken out of the times of nodes.

Libraries import modules when they are first needed, which may be in the middle of a node. While a clock is watched,
Python's own loaders of files tell it when they begin and end. Nothing is told when nothing is imported, so this costs
nothing then. torch tells of compilation through the callbacks of `torch._dynamo.callback`; nothing here imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from threading import RLock
from typing import Any

from .clock import IMPORT, KERNELS, Clock

COMPILER = "torch._dynamo.callback"
"""The module of torch in which compilation is announced."""

METHODS = ((SourceFileLoader, "exec_module"), (ExtensionFileLoader, "create_module"))

_watched: list[Clock] = []
_before: dict[tuple[type, str], Callable[..., Any]] = {}
_lock = RLock()


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Inside `with`, imports count as `IMPORT` and compilation by torch as `KERNELS`, if the clock's thread does it."""
    if id(clock) in _kernels:  # it is watched already
        yield
        return
    kernels = _Kernels(clock)
    with _lock:
        if not _watched:
            _install()
        _watched.append(clock)
        _kernels[id(clock)] = kernels
    if COMPILER in sys.modules:
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


class _Kernels:
    """Two callbacks for torch's compiler."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.handler: Any = None

    def register(self) -> None:
        handler = getattr(sys.modules.get(COMPILER), "callback_handler", None)
        if self.handler is None and handler is not None:
            self.handler = handler
            handler.register_start_callback(self.began)
            handler.register_end_callback(self.ended)

    def unregister(self) -> None:
        if self.handler is not None:
            with suppress(ValueError):  # `torch._dynamo.reset` forgets all callbacks
                self.handler.remove_start_callback(self.began)
            with suppress(ValueError):
                self.handler.remove_end_callback(self.ended)

    def began(self, _: Any) -> None:
        self.clock.enter(KERNELS)

    def ended(self, _: Any) -> None:
        if self.clock.owner == KERNELS:
            self.clock.leave()


_kernels: dict[int, _Kernels] = {}


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
            if getattr(given, "__name__", "") == COMPILER:
                for kernels in list(_kernels.values()):
                    kernels.register()

    return timed
