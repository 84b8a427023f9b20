"""The order of the device's work of two threads of one run (`sgd exec --overlap`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class SecondStream:
    """Orders the work that two threads of a run give to its device.

    The base class orders nothing: the work of a CPU is done when a call returns.
    """

    def beside(self) -> AbstractContextManager[None]:
        """Surrounds the calls of the second thread: their work on the device need not wait for that of the first."""
        return nullcontext()

    def given(self) -> Any:
        """A mark after everything that this thread has given to the device so far."""
        return None

    def taken(self, mark: Any, values: Sequence[Any]) -> None:
        """Let later work of this thread come after a mark of the other one.

        Args:
            mark: The result of `given` in the other thread.
            values: Values of the other thread that this one uses. Their memory is free only when its work is done.
        """
