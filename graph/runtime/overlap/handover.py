"""Hand turns over from the thread of a run to its second thread, which works on one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..failure import Interrupted

LOOK_SECONDS = 0.1


class Handover:
    """Turns by number, in order. The thread of the run gives them, and the second thread takes and finishes them.

    Attributes:
        error: The error that ended the second thread; None if there was none.
        over: Whether no more turns are given.
    """

    def __init__(self, first: int) -> None:
        self.error: BaseException | None = None
        self.over = False
        self._given: dict[int, Any] = {}
        self._next = self._finished = first
        self._ended = False
        self._changed = threading.Condition()

    def give(self, value: Any) -> None:
        """Give the next turn."""
        with self._changed:
            self._given[self._next] = value
            self._next += 1
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether every turn that was given is finished, or the second thread has ended."""
        return self._finished == self._next or self._ended

    def wait(self, look: Callable[[], None]) -> None:
        """Wait until every turn that was given is finished. `look` is called now and then meanwhile."""
        while not self.idle:
            with self._changed:
                self._changed.wait_for(lambda: self.idle, LOOK_SECONDS)
            look()

    def close(self) -> None:
        """Give nothing more."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def take(self, turn: int) -> Any:
        """In the second thread: wait for a turn.

        Raises:
            Interrupted: If it is not given any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: turn < self._next or self.over)
            if turn >= self._next:
                raise Interrupted
            return self._given.pop(turn, None)

    def finish(self) -> None:
        """In the second thread: report that the turn that it took is finished."""
        with self._changed:
            self._finished += 1
            self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """In the second thread: report its end."""
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()
