"""Memory over time: of this process, sampled by a thread, or any other numbers, in at most `POINTS` points."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter, thread_time
from typing import BinaryIO

SAMPLE_SECONDS = 0.01
"""The shortest pause between two samples."""

SHARE = 0.002
"""The share of the time that the sampling thread takes, at most."""

SHORT_SECONDS = 0.001
POINTS = 500
STATM = "/proc/self/statm"


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

    A sample beside a busy thread takes hundreds of microseconds, most of them to wake up. So the pauses grow until the
    thread takes `SHARE` of the time. A peak between two samples is seen all the same if the process never had as much
    memory before: the system keeps that number.

    Args:
        receive: Receives each sample with its time of `perf_counter`.
    """

    def __init__(self, receive: Callable[[float, int], None] | None = None) -> None:
        self.highest = 0
        self.cpu_seconds = 0.0
        """Processor time of the thread so far."""
        self._window = self._last = self._before = self._page = 0
        self._stop = threading.Event()
        self._receive = receive
        self._file: BinaryIO | None = None
        self._usage: Callable[[], int] = int
        with suppress(OSError):
            self._file = open(STATM, "rb", buffering=0)  # noqa: SIM115 - the thread closes it
        if self._file is not None:
            import resource

            self._page = resource.getpagesize()
            self._usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self._sample()
            self._before = self._usage()
            threading.Thread(target=self._loop, name="sgd memory", daemon=True).start()

    def _sample(self) -> int:
        if self._file is None:
            return 0
        try:
            resident = int(os.pread(self._file.fileno(), 128, 0).split()[1]) * self._page
        except (OSError, ValueError):  # it is closed
            return 0
        self._note(resident)
        self._last = resident
        return resident

    def _note(self, size: int) -> None:
        self._window = max(self._window, size)
        self.highest = max(self.highest, size)

    def _loop(self) -> None:
        assert self._file is not None
        with self._file:
            pause, rounds = SAMPLE_SECONDS, 0
            while True:
                resident = self._sample()
                if self._receive is not None:
                    self._receive(perf_counter(), resident)
                if self._stop.wait(pause):
                    return
                rounds += 1
                self.cpu_seconds = thread_time()
                pause = max(SAMPLE_SECONDS, self.cpu_seconds / rounds / SHARE)

    def begin(self) -> None:
        """Begin a new window."""
        self._window, self._before = 0, self._usage()

    def end(self, seconds: float) -> int:
        """End the window and return its highest memory, in bytes.

        A window of more than a millisecond takes a sample at its end.
        """
        if seconds > SHORT_SECONDS:
            self._sample()
        highest = self._usage()
        if highest > self._before:
            self._note(highest)
        return self._window or self._last

    def close(self) -> None:
        self._stop.set()
