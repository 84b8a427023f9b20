"""One lock for state that packages keep for the whole process: runs in several threads do not disturb each other.

torch has one default dtype for all threads, and loaders of models replace functions of torch while they work. Code that
changes such state stands in `with exclusive():`. Nodes run, and parts are acquired and released, in `with shared():`,
so none of another run is at work meanwhile. `exclusive` may stand inside `shared`: the thread gives its share up until
it is alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from types import TracebackType


class ProcessState(ContextDecorator):
    """A lock that many threads share or one thread has alone. Both kinds nest within a thread.

    It is its own context manager for a share, since every call of a node takes one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._shares: dict[int, int] = {}
        self._owner: int | None = None
        self._depth = 0
        self._given_up = 0
        self._waiting = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._lock:
            if me not in self._shares and self._owner != me:
                # A thread that waits to be alone comes first, or it would never be.
                while self._owner is not None or self._waiting:
                    self._changed.wait()
            self._shares[me] = self._shares.get(me, 0) + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        me = threading.get_ident()
        with self._lock:
            self._shares[me] -= 1
            if not self._shares[me]:
                del self._shares[me]
                if self._waiting:
                    self._changed.notify_all()

    def shared(self) -> ProcessState:
        """No other thread is in `exclusive` inside this block."""
        return self

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other thread is in `exclusive` or `shared` inside this block."""
        me = threading.get_ident()
        with self._changed:
            if self._owner == me:
                self._depth += 1
            else:
                given_up = self._shares.pop(me, 0)
                self._waiting += 1
                self._changed.notify_all()
                try:
                    while self._owner is not None or self._shares:
                        self._changed.wait()
                except BaseException:
                    self._retake(me, given_up)
                    raise
                finally:
                    self._waiting -= 1
                self._owner, self._depth, self._given_up = me, 1, given_up
        try:
            yield
        finally:
            with self._changed:
                self._depth -= 1
                if not self._depth:
                    self._owner = None
                    self._retake(me, self._given_up)
                    self._changed.notify_all()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Give this thread's share up while the block waits, such as for a download, and changes or uses no state."""
        me = threading.get_ident()
        with self._changed:
            given_up = 0 if self._owner == me else self._shares.pop(me, 0)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                while given_up and self._owner not in (None, me):
                    self._changed.wait()
                self._retake(me, given_up)

    def _retake(self, me: int, given_up: int) -> None:
        if given_up:
            self._shares[me] = given_up


_STATE = ProcessState()
shared, exclusive, released = _STATE.shared, _STATE.exclusive, _STATE.released
