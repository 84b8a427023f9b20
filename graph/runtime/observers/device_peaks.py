"""Peak memory of calls on a GPU while two threads may each run one. torch keeps one peak for the whole device."""

from __future__ import annotations

import threading
from typing import Any


class DevicePeaks:
    """The most bytes that torch had allocated during a call, including those of the other thread's call.

    Args:
        cuda: `torch.cuda`.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def begin(self, id: str) -> None:
        """Begin to measure a call."""
        with self._lock:
            self._note()
            self._cuda.reset_peak_memory_stats()
            self._open[id] = 0

    def end(self, id: str) -> int:
        """End the measurement of a call. Returns its peak in bytes."""
        with self._lock:
            self._note()
            return self._open.pop(id, 0)

    def _note(self) -> None:
        if self._open:
            peak = int(self._cuda.max_memory_allocated())
            self._open = {id: max(highest, peak) for id, highest in self._open.items()}
