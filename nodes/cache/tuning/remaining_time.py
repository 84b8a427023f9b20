"""Say how long the runs of a tuning take, and how many are done. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean

EACH = 10.0
"""Seconds between two lines about progress."""


class RemainingTime:
    """Counts the runs of `sgd tune`.

    Args:
        say: Prints a line.
        measuring: Runs that measure.
        choosing: Runs that try plans, at most.
    """

    def __init__(self, say: Callable[[str], None], measuring: int, choosing: int) -> None:
        self.say, self.measuring, self.total = say, measuring, measuring + choosing
        self.seconds: list[float] = []
        self.told = time.monotonic()

    def ran(self, seconds: float) -> None:
        """Count a run that took so many seconds."""
        self.seconds.append(seconds)
        done, each = len(self.seconds), mean(self.seconds)
        if done == 1:
            first, rest = self.measuring * each, (self.total - self.measuring) * each
            plans = f", and {duration(rest)} at most to try plans" if rest else ""
            self.say(f"a run takes {duration(each)}, so it takes {duration(first)} to measure{plans}")
        elif time.monotonic() - self.told > EACH:
            left = max(self.measuring - done, 0)
            more = f"; {duration(left * each)} left to measure" if left else ""
            self.say(f"{done} of at most {self.total} runs are done{more}")
        else:
            return
        self.told = time.monotonic()


def duration(seconds: float) -> str:
    """Seconds for people: `0.8 s`, `12 s`, `4 min`, `2.5 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
