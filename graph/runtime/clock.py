"""The clock of a run: each moment belongs to one owner, so that the times of all owners add up to the whole.

An owner is a node, or one of the rows that are not nodes (`IMPORT` and so on). `import_times.py` takes time out of the
owner at work when Python imports a module, and when torch compiles.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from time import perf_counter

from ..contract.interrupts import installed

IMPORT, COMPILE, KERNELS, LOAD, OTHER = "(import)", "(compile)", "(kernels)", "(load)", "(other)"
ROWS = (IMPORT, COMPILE, KERNELS, LOAD, OTHER)
"""Rows of the record that are not nodes, in their order."""

SHORT_SECONDS = 0.001
"""Shorter spans are not kept for the timeline. They count all the same."""


@dataclass(frozen=True)
class Span:
    """A stretch of time of one owner that is not a node. `start` counts from the start of the clock, in seconds."""

    owner: str
    start: float
    seconds: float


class Clock:
    """Divides the time since `started` among owners.

    One thread at a time holds the clock (`adopt`); calls by other threads do nothing. Owners nest: an inner one pauses
    the outer one.

    Args:
        started: When the run began, as `time.time()`; now if not given.
        import_seconds: Seconds since then in which the caller imported.
        compile_seconds: Seconds since then in which the caller compiled.
    """

    def __init__(
        self, started: float | None = None, *, import_seconds: float = 0.0, compile_seconds: float = 0.0
    ) -> None:
        self._since = perf_counter()
        self.started = self._since - (0.0 if started is None else max(time.time() - started, 0.0))
        self.spent: dict[str, float] = {IMPORT: import_seconds, COMPILE: compile_seconds}
        self.spans: list[Span] = []
        self._stack: list[tuple[str, float]] = []
        self._base = 0
        self._holder = get_ident()

    @classmethod
    def of_process(cls) -> Clock:
        """A clock that began with this process. The time until now was that of Python's start and of imports."""
        clock = cls(process_start())
        clock.spent[IMPORT] = before = clock._since - clock.started
        clock.spans.append(Span(IMPORT, 0.0, before))
        return clock

    @classmethod
    def of_command(cls) -> Clock:
        """A clock that began with this process if the process is the `sgd` command; in a program, with this call."""
        return cls.of_process() if installed() else cls()

    def beside(self) -> Clock:
        """A clock for another thread, with the same start. Its times are no part of this clock's."""
        other = Clock()
        other.started = self.started
        return other

    @property
    def mine(self) -> bool:
        """Whether this thread holds the clock."""
        return get_ident() == self._holder

    @property
    def owner(self) -> str:
        """The owner of this moment; empty if there is none."""
        return self._stack[-1][0] if self._stack else ""

    @property
    def epoch(self) -> float:
        """The start, in seconds since the epoch."""
        return time.time() - self.now()

    def now(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self.started

    def adopt(self, owner: str | None = None) -> None:
        """Give the clock to this thread. Time of the thread before is kept; from now on, time belongs to `owner`."""
        now = self._charge()
        self._stack = [] if owner is None else [(owner, now)]
        self._base = 0
        self._holder = get_ident()

    def enter(self, owner: str) -> None:
        """From now on, time belongs to `owner`, until `leave`."""
        if self.mine:
            self._stack.append((owner, self._charge()))

    def leave(self) -> float:
        """End what `enter` began. Returns the seconds since the start at that moment."""
        if not (self.mine and self._stack):
            return self.now()
        now = self._charge()
        owner, began = self._stack.pop()
        self._base = min(self._base, len(self._stack))
        if now - began > SHORT_SECONDS:
            self.spans.append(Span(owner, began - self.started, now - began))
        return now - self.started

    @contextmanager
    def during(self, owner: str) -> Iterator[None]:
        """Time inside `with` belongs to `owner`."""
        self.enter(owner)
        try:
            yield
        finally:
            self.leave()

    def serve(self, owner: str) -> None:
        """From now on, time belongs to `owner` wherever `switch` names no other."""
        self.enter(owner)
        self._base = len(self._stack)

    def switch(self, owner: str | None = None) -> None:
        """From now on, time belongs to `owner`, or to that of `serve`. Whatever was nested in it is over."""
        if self.mine:
            now = self._charge()
            del self._stack[self._base :]
            if owner is not None:
                self._stack.append((owner, now))

    def give(self, seconds: float, giver: str) -> None:
        """Take seconds from an owner, and give them to that of `serve`, or to nobody if there is none."""
        if self.mine and seconds > 0:
            self.spent[giver] = self.spent.get(giver, 0.0) - seconds
            if self._base:
                taker = self._stack[self._base - 1][0]
                self.spent[taker] = self.spent.get(taker, 0.0) + seconds

    def seconds_of(self, owner: str) -> float:
        """Seconds that an owner has had so far."""
        if self.mine:
            self._charge()
        return self.spent.get(owner, 0.0)

    def parts(self) -> dict[str, float]:
        """The parts of `OTHER` by name: owners such as `(other) executor`."""
        prefix = f"{OTHER} "
        return {o.removeprefix(prefix): s for o, s in self.spent.items() if o.startswith(prefix)}

    def _charge(self) -> float:
        now = perf_counter()
        if self._stack:
            owner = self._stack[-1][0]
            self.spent[owner] = self.spent.get(owner, 0.0) + now - self._since
        self._since = now
        return now


def process_start() -> float:
    """Start time of this process in seconds since the epoch; the current time if the system does not report it.

    Linux reports it in ticks of 10 ms.
    """
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time()
