"""Order the work that two threads of one run give to a device (`sgd exec --overlap`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class SecondStream:
    """Orders the work that two threads of a run give to its device.

    The base class orders nothing: the work of a CPU is done when a call returns.
    """

    def beside(self) -> AbstractContextManager[None]:
        """Surround the calls of the second thread, so that their work does not wait for that of the first thread."""
        return nullcontext()

    def given(self) -> Any:
        """A mark after all work that this thread has given to the device so far."""
        return None

    def taken(self, mark: Any, values: Sequence[Any]) -> None:
        """Make later work of this thread on the device wait for a mark of the other thread.

        Args:
            mark: The result of `given` in the other thread.
            values: Values of the other thread that this one uses. Their memory is reused only after this thread's work.
        """


class SecondDevice(SecondStream):
    """Orders the work of two threads on two devices, and brings values from one to the other (`--overlap-device`).

    The base class returns values as they are, which suits values that lie on no device. Parts of values for the second
    thread are acquired with a `Run` whose `device` is the second device.
    """

    def around(self) -> AbstractContextManager[None]:
        """Surround work of the first thread for the second device, such as loading parts of a value."""
        return nullcontext()

    def there(self, value: Any) -> Any:
        """A value of the first device for the second thread, equal to it.

        A value with parts to acquire, such as a model, becomes one that acquires its parts on the second device. The
        parts of both may be in memory at once. Values of other libraries stay as they are.
        """
        return value

    def back(self, value: Any) -> Any:
        """A value of the second thread for the first one: the reverse of `there`."""
        return value
