"""The course of a run: calls of nodes, loads of components, turns of loops, in at most `LIMIT` entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...contract.events import LoopInfo, Observer
from ..arguments import facts_of
from ..clock import Clock, Span
from .device_times import DeviceTimes

LIMIT = 5000


@dataclass
class Entry:
    """One entry. `start` is in seconds from the start of the run; `calls` counts the entries that it stands for."""

    name: str
    kind: str
    start: float
    seconds: float
    step: int | None = None
    part: str | None = None
    device_seconds: float | None = None
    calls: int = 1

    def add_device(self, seconds: float) -> None:
        self.device_seconds = (self.device_seconds or 0.0) + seconds

    def absorb(self, next: Entry) -> None:
        """Stand for the next entry of the same name too. Its time counts, and the time between them does not."""
        self.seconds += next.seconds
        self.calls += next.calls
        if next.device_seconds is not None:
            self.add_device(next.device_seconds)

    def row(self) -> dict[str, Any]:
        """The entry in the form of the record."""
        row: dict[str, Any] = {"name": self.name, "kind": self.kind, "start": self.start, "seconds": self.seconds}
        if self.step is not None:
            row["step"] = self.step
        if self.part is not None:
            row["part"] = self.part
        row["device_seconds"] = self.device_seconds
        if self.calls > 1:
            row["calls"] = self.calls
        return row


@dataclass
class Timeline:
    """Collects entries, unless `kept` is false."""

    entries: list[Entry] = field(default_factory=list)
    kept: bool = True

    def add(self, entry: Entry) -> Entry:
        if self.kept:
            self.entries.append(entry)
        return entry

    def rows(self, spans: Iterable[Span] = ()) -> list[dict[str, Any]]:
        """At most `LIMIT` rows in the order of their starts, those of the clock's spans among them."""
        if not self.kept:
            return []
        entries = [*self.entries, *(Entry(s.owner, "phase", s.start, s.seconds) for s in spans)]
        return [entry.row() for entry in fewer(sorted(entries, key=lambda entry: entry.start))]


def fewer(entries: list[Entry], limit: int = LIMIT) -> list[Entry]:
    """At most `limit` entries: neighbours of one name become one; if that is not enough, the shortest go."""
    if len(entries) > limit:
        entries = [replace(entry) for entry in entries]  # a record may be made twice
    while len(entries) > limit:
        kept: list[Entry] = []
        open: dict[tuple[str, str, str | None], Entry] = {}
        for entry in entries:
            key = entry.name, entry.kind, entry.part
            first = open.pop(key, None)
            if first is not None:
                first.absorb(entry)
            else:
                kept.append(entry)
                open[key] = entry
        if len(kept) == len(entries):
            shortest = sorted(kept, key=lambda entry: entry.seconds)[: len(kept) - limit]
            dropped = set(map(id, shortest))
            return [entry for entry in kept if id(entry) not in dropped]
        entries = kept
    return entries


class Turns(Observer):
    """Start and seconds of each iteration of every loop, and the facts of the loop's variables."""

    def __init__(
        self, clock: Clock | None = None, timeline: Timeline | None = None, device: DeviceTimes | None = None
    ) -> None:
        self.turns: list[dict[str, Any]] = []
        self.clock = clock or Clock()
        self.timeline = timeline or Timeline()
        self.device = device or DeviceTimes()
        self._current: dict[str, tuple[dict[str, Any], float, Any]] = {}

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        facts: dict[str, Any] = {}
        for value in variables.values():
            facts.update(facts_of(value))
        row = {"loop": loop.id, "turn": index, **facts} | {"loop": loop.id, "turn": index}
        self._current[loop.id] = row, self.clock.now(), self.device.mark()

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        row, start, began = self._current.pop(loop.id)
        row |= {"start": start, "seconds": seconds, "device_seconds": None}
        self.turns.append(row)
        entry = self.timeline.add(Entry(loop.id, "turn", start, seconds, step=row.get("step", index)))

        def receive(found: float) -> None:
            row["device_seconds"] = found
            entry.add_device(found)

        if began is not None:
            self.device.between(began, self.device.mark(), receive)
