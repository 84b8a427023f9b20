"""Times of a GPU, by events that torch records among its work. Nothing waits for the GPU before the run is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class DeviceTimes:
    """Pairs of events, and the functions that receive the seconds between them.

    Attributes:
        cuda: `torch.cuda`; None for a CPU, where `mark` gives None and there are no times.
    """

    def __init__(self, cuda: Any = None) -> None:
        self.cuda = cuda
        self._pairs: list[tuple[Any, Any, Callable[[float], None]]] = []

    def mark(self) -> Any:
        """Record an event in the current stream; None on a CPU. This does not wait for the GPU."""
        if self.cuda is None:
            return None
        event = self.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any, receive: Callable[[float], None]) -> None:
        """Give the seconds between two events to `receive` when the run is over."""
        if start is not None and end is not None:
            self._pairs.append((start, end, receive))

    def read(self, wait: bool = True) -> None:
        """Read all times.

        Args:
            wait: Wait for the last event first. Otherwise work that the GPU has not finished has no time.
        """
        if wait and self._pairs:
            self._pairs[-1][1].synchronize()
        for start, end, receive in self._pairs:
            if end.query():
                receive(start.elapsed_time(end) / 1000)
        self._pairs.clear()
