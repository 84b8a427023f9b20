"""Computes how much longer a run would have taken without its second thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Times = tuple[float, float]
"""Start and end, in seconds of `perf_counter`."""

Effect = tuple[Times, float]
"""The times of a call, and its seconds without imports."""


@dataclass
class OverlappedTime:
    """The time of calls in second threads in which the run did not wait for them.

    Attributes:
        seconds: All of it: the run would have been longer by this. Below 0 if the run waited for other things too.
        saving: The part of it in calls with effects.
    """

    seconds: float = 0.0
    saving: float = 0.0

    def add(self, calls: float, waited: float, effects: Sequence[Effect], waits: Sequence[Times]) -> None:
        """Count a thread that has ended.

        Args:
            calls: Seconds of all its calls.
            waited: Seconds in which the run waited for it.
            effects: Its calls with effects.
            waits: The times in which the run waited for it.
        """
        self.seconds += calls - waited
        for (start, end), seconds in effects:
            beside = end - start - sum(max(min(end, until) - max(start, since), 0.0) for since, until in waits)
            self.saving += seconds * beside / max(end - start, 1e-9)
