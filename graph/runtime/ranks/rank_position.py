"""Where a rank is: its node and turn, and how long it may stay there without going on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from ...contract.events import CallInfo, HolderInfo, LoopInfo, Observer
from ..clock import KERNELS, Clock
from .stall import FILE_SECONDS, KERNEL_SECONDS, LOAD_SECONDS

LONGER = 4.0
"""A call that the ranks compute together may take so many times as long as the longest one of its node before. In the
first one, devices may prepare their kernels."""


class RankPosition(Observer):
    """Follows the events of a run.

    Args:
        clock: The clock of the run, which knows whether kernels are built.
        limit: Seconds without progress, in nodes.

    Attributes:
        node: The path and type of the node at work; empty before the first.
        first_only: The calls that the other ranks leave out (`PlacedSteps.first_only`). They have the limit of nodes
            that write files.
    """

    def __init__(self, clock: Clock, limit: float) -> None:
        self.clock = clock
        self.node = ""
        self.first_only: Collection[str] = ()
        self._limit = limit
        self._call: CallInfo | None = None
        self._began = 0.0
        self._count = 0
        self._loops: list[tuple[str, int, int]] = []
        self._longest: dict[str, float] = {}
        self._spent: dict[str, tuple[int, float]] = {}
        self._loaded: Callable[[], int] | None = None
        self._at_files = False

    @property
    def turn(self) -> str:
        """The turns of the loops under way, from 1, with the numbers of turns."""
        return ", ".join(f"{turn}/{turns} of {id}" for id, turn, turns in list(self._loops))

    def count(self) -> int:
        """A number that grows while the rank goes on."""
        loaded = self._loaded
        try:
            return self._count + (loaded() if loaded is not None else 0)
        except Exception:  # the file that is read may be closed by now
            return self._count

    @property
    def limit(self) -> float:
        """Seconds that the rank may take here without progress: the limit in nodes, or a longer one."""
        return max(self._limit, self._longer())

    def _longer(self) -> float:
        """The limit of the present work, in seconds; 0 if it has none of its own."""
        with suppress(IndexError):  # the thread of the run changes the clock meanwhile
            if self.clock.owner == KERNELS:
                return KERNEL_SECONDS
        if self._at_files:
            return FILE_SECONDS
        if self._loaded is not None:
            return LOAD_SECONDS
        call = self._call
        if call is None:
            return 0.0
        if call.type.effect or call.type.processes == "once" or call.id in self.first_only:
            return FILE_SECONDS
        if call.type.processes == "split":
            longest = self._longest.get(call.id)
            return KERNEL_SECONDS if longest is None else LONGER * longest
        return 0.0

    @contextmanager
    def at_files(self) -> Iterator[None]:
        """Mark a block between nodes in which files are hashed, read or written."""
        self._count += 1
        self._at_files = True
        try:
            yield
        finally:
            self._at_files = False
            self._count += 1

    @property
    def in_split(self) -> bool:
        """Whether the ranks compute this node together, so that this one may wait for others in it."""
        call = self._call
        return call is not None and call.type.processes == "split"

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._count += 1
        self._call, self._began = call, monotonic()
        self.node = f"{call.id} ({call.type.name})"

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self._count += 1
        self._longest[call.id] = max(self._longest.get(call.id, 0.0), monotonic() - self._began)
        self._call = None

        calls, spent = self._spent.get(call.id, (0, 0.0))
        self._spent[call.id] = calls + 1, spent + seconds

    def rows(self) -> list[dict[str, Any]]:
        """The calls and seconds of each node that has run, in the order of their first calls."""
        return [
            {"name": name, "calls": calls, "seconds": round(spent, 6)}
            for name, (calls, spent) in list(self._spent.items())
        ]

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self._loops.append((loop.id, 0, turns))

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self._count += 1
        self._loops[-1] = (loop.id, index + 1, self._loops[-1][2])

    def loop_finished(self, loop: LoopInfo) -> None:
        self._loops.pop()

    def part_loading(self, call: CallInfo | None, part: str, total: int, loaded: Callable[[], int]) -> None:
        self._count += 1
        self._loaded = loaded

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self._count += 1
        self._loaded = None

    def part_released(self, holder: HolderInfo, part: str) -> None:
        self._count += 1

    def progress(self, call: CallInfo | None, done: int, total: int, label: str) -> None:
        self._count += 1

    def values_freed(self, names: Sequence[Any]) -> None:
        self._count += 1
