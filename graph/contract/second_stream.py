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


class SecondDevice(SecondStream):
    """Orders the work of two threads on two devices, and brings values from one to the other (`--overlap-device`).

    The base class brings values over as they are, which is right where they lie on no device. The parts of a value are
    then acquired with a run whose `device` is the second one.
    """

    def around(self) -> AbstractContextManager[None]:
        """Surrounds work of the first thread for the second device, such as loading parts of a value."""
        return nullcontext()

    def there(self, value: Any) -> Any:
        """A value of the first device for the second thread, equal to it.

        A value whose parts are acquired becomes one whose parts are acquired on the second device, apart from those of
        the first: both may be in memory at once. Values of other libraries stay as they are.
        """
        return value

    def back(self, value: Any) -> Any:
        """A value of the second thread for the first one: the reverse of `there`."""
        return value
