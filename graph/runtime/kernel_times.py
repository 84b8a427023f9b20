"""Kernels that are built during a run, taken out of the times of nodes.

torch tells of compilation through the callbacks of `torch._dynamo.callback`. Triton tells nothing of a failure, so the
methods in which it compiles a kernel, and tries one of several forms of it, are wrapped while a run is watched. Nothing
here imports torch or Triton.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import RLock
from typing import Any

from .clock import KERNELS, Clock

COMPILER = "torch._dynamo.callback"
"""The module of torch in which compilation is announced."""

COMPILES = "_do_compile"
"""The method that compiles a kernel. While a run is watched, one thread at a time runs it. No kernel is made twice."""

TRITON = (("triton.runtime.jit", "JITFunction", COMPILES), ("triton.runtime.autotuner", "Autotuner", "_bench"))
"""Module, class and method: Triton compiles a kernel, or loads it from its cache; and times one form of it."""

MODULES = frozenset((COMPILER, *(module for module, _, _ in TRITON)))
"""When one of these modules is imported, `KernelTimes.register` finds it."""


_listening: list[KernelTimes] = []
_originals: dict[tuple[str, str, str], tuple[type, Callable[..., Any]]] = {}
_lock = RLock()
_compiling = RLock()


class KernelTimes:
    """Counts the building of kernels as `KERNELS`, if the thread of the clock waits for it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.handler: Any = None

    def register(self) -> None:
        """Listen to the packages that are imported so far. Further calls listen to those that came since."""
        handler = getattr(sys.modules.get(COMPILER), "callback_handler", None)
        if self.handler is None and handler is not None:
            self.handler = handler
            handler.register_start_callback(self.began)
            handler.register_end_callback(self.ended)
        with _lock:
            if self not in _listening:
                _listening.append(self)
            _wrap()

    def unregister(self) -> None:
        """Listen no more."""
        if self.handler is not None:
            with suppress(ValueError):  # `torch._dynamo.reset` forgets all callbacks
                self.handler.remove_start_callback(self.began)
            with suppress(ValueError):
                self.handler.remove_end_callback(self.ended)
        with _lock:
            _listening.remove(self)
            if not _listening:
                _unwrap()

    def began(self, _: Any) -> None:
        self.clock.enter(KERNELS)

    def ended(self, _: Any) -> None:
        if self.clock.owner == KERNELS:
            self.clock.leave()


def _wrap() -> None:
    for place in TRITON:
        module, name, method = place
        owner = getattr(sys.modules.get(module), name, None)
        original = getattr(owner, method, None)
        if place not in _originals and owner is not None and original is not None:
            _originals[place] = owner, original
            setattr(owner, method, _timed(_once(original) if method == COMPILES else original))


def _unwrap() -> None:
    for (_, _, method), (owner, original) in _originals.items():
        setattr(owner, method, original)
    _originals.clear()


def _once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel, or return the one that another thread has made while this one waited.

    The thread that builds kernels in advance may be at work on the kernel that a node needs.
    """

    @functools.wraps(original)
    def once(function: Any, *arguments: Any, **named: Any) -> Any:
        with _compiling:
            with suppress(Exception):  # other versions of Triton may keep their kernels elsewhere
                key, _, device, *_ = arguments
                made = function.device_caches[device][0].get(key)
                if made is not None:
                    return made
            return original(function, *arguments, **named)

    return once


def _timed(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def timed(*arguments: Any, **named: Any) -> Any:
        clocks = [each.clock for each in list(_listening) if each.clock.mine and each.clock.owner != KERNELS]
        for clock in clocks:
            clock.enter(KERNELS)
        try:
            return original(*arguments, **named)
        finally:
            for clock in clocks:
                clock.leave()

    return timed
