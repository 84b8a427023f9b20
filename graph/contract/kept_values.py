"""What node libraries keep between the runs of a session: values by name, which the session closes at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar


class KeptValue(Protocol):
    """A value that a library keeps in a session. Its methods are called in the thread of the session."""

    def free(self) -> None:
        """Free what no run uses. Memory was short."""

    def close(self) -> None:
        """Free what no run uses, and keep nothing from now on."""


V = TypeVar("V", bound=KeptValue)


class Session:
    """Values that libraries keep from one run to the next. `Run.session` holds it, where there is one."""

    def __init__(self) -> None:
        self._values: dict[str, KeptValue] = {}

    def keep(self, name: str, make: Callable[[], V]) -> V:
        """The value of a name; the first call makes it.

        Args:
            name: A name that begins with that of the library.
            make: Makes the value.
        """
        if name not in self._values:
            self._values[name] = make()
        return self._values[name]  # type: ignore[return-value]

    def free(self) -> None:
        """Free what no run uses."""
        for value in self._values.values():
            value.free()

    def close(self) -> None:
        """Free and forget all values. Runs that still use one free it at their end."""
        while self._values:
            _, value = self._values.popitem()
            value.close()
