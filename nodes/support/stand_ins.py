"""Stand-ins for functions and classes of modules that are not executed yet (`deferred_imports.py`)."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from types import ModuleType
from typing import Any


class StandIn:
    """Stands for one function or class of a module, before and after the module is executed.

    Nothing is an instance of a class that is not made yet, so `isinstance` does not execute the module. Every other use
    does: a call, an attribute, a class that inherits from it.

    Args:
        module: Name of the module.
        name: Name of the function or class in it.
        mark: It notes its only argument and returns it.
        lock: Held while the module is executed.
        resolve: Gives an attribute of a module. With False, it does not execute the module, and gives None.
    """

    def __init__(
        self, module: str, name: str, mark: bool, lock: RLock, resolve: Callable[[str, str, bool], Any]
    ) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = module
        self._mark, self._lock, self._resolve = mark, lock, resolve
        self._kept: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._mark and len(args) == 1 and not kwargs:
            with self._lock:
                if self._own(execute=False) is None:
                    self._kept.append(args[0])
                    return args[0]
        return self._own()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own(), name)

    def __instancecheck__(self, instance: Any) -> bool:
        own = self._own(execute=False)
        return own is not None and isinstance(instance, own)

    def __subclasscheck__(self, cls: type) -> bool:
        own = self._own(execute=False)
        return own is not None and issubclass(cls, own)

    def __or__(self, other: Any) -> Any:
        return self._own() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._own()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._own(),)

    def hand_over(self, module: ModuleType) -> None:
        """Give what was marked to the function itself."""
        while self._kept:
            getattr(module, self.__name__)(self._kept.pop(0))

    def _own(self, execute: bool = True) -> Any:
        return self._resolve(self.__module__, self.__name__, execute)
