"""Memory over time: of this process, sampled by a thread, or any other numbers, in at most `POINTS` points."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

SAMPLE_SECONDS = 0.01
SHORT_SECONDS = 0.001
POINTS = 500


class Curve:
    """Bytes over time. Neighbouring points become one, with the larger number, whenever there are too many."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, when: float, size: int) -> None:
        """Add a point. `when` is a time of `perf_counter`."""
        self._points.append((when, size))
        if len(self._points) >= 2 * POINTS:
            self._points = halved(self._points)

    def rows(self, started: float) -> list[dict[str, float | int]]:
        """The points as `seconds` since `started`, and `bytes`."""
        points = list(self._points)
        while len(points) > POINTS:
            points = halved(points)
        return [{"seconds": when - started, "bytes": size} for when, size in points]


def halved(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """One point for each two: the one with more bytes."""
    return [max(points[n : n + 2], key=lambda point: point[1]) for n in range(0, len(points), 2)]


class Memory:
    """Samples the resident memory of this process in a thread, in bytes; 0 if the system does not report it.

    Args:
        receive: Receives each sample with its time of `perf_counter`.
    """

    def __init__(self, receive: Callable[[float, int], None] | None = None) -> None:
        self._file = Path("/proc/self/statm")
        self._page = 4096
        self.highest = 0
        self._window = self._last = 0
        self._stop = threading.Event()
        self._receive = receive
        if self._file.exists():
            import resource

            self._page = resource.getpagesize()
            self._sample()
            threading.Thread(target=self._loop, daemon=True).start()

    def _sample(self) -> int:
        try:
            resident = int(self._file.read_bytes().split()[1]) * self._page
        except OSError:
            return 0
        self._last = resident
        self._window = max(self._window, resident)
        self.highest = max(self.highest, resident)
        return resident

    def _loop(self) -> None:
        while True:
            resident = self._sample()
            if self._receive is not None:
                self._receive(perf_counter(), resident)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def begin(self) -> None:
        """Begin a new window."""
        self._window = 0

    def end(self, seconds: float) -> int:
        """End the window and return its highest sample, in bytes.

        A window of more than a millisecond takes a sample at its end. A shorter one does not, because a sample takes
        10 µs or more.
        """
        if seconds > SHORT_SECONDS:
            self._sample()
        return self._window or self._last

    def close(self) -> None:
        self._stop.set()
