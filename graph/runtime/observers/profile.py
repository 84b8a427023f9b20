"""The per-node profiler: calls, seconds, device seconds and peak memory of every call."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from ...contract.events import CallInfo, HolderInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from ...contract.ports import Port
from ..arguments import facts_of

SAMPLE_SECONDS = 0.01
SHORT_SECONDS = 0.001


@dataclass
class Row:
    """Time and memory of one call of the plan, over all iterations of loops. `seconds` is host time."""

    calls: int = 0
    seconds: float = 0.0
    device_seconds: float | None = None
    peak_bytes: int | None = None
    effect: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)


class Profile(Observer):
    """Measures every call.

    On a GPU, events measure device time, without synchronising before the run is over, and torch reports the
    allocated memory. On a CPU, a thread samples the resident memory of the process every 10 ms.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.parts: dict[str, float] = {}
        self.load_seconds = 0.0
        self.peak_bytes: int | None = None
        self._memory: Memory | None = None
        self._events: list[tuple[Row, Any, Any]] = []
        self._began: Any = None
        self._running, self._started = "", 0.0
        self._cuda: Any = None

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        if run.device.startswith("cuda"):
            import torch

            self._cuda = torch.cuda
        else:
            self._memory = Memory()

    def run_finished(self, status: str, error: BaseException | None) -> None:
        if self._memory is not None:
            self._memory.close()
            self.peak_bytes = self._memory.highest or None
        if self._cuda is not None:
            if status != "interrupted":  # the device may stay busy; only finished work is counted
                self._cuda.synchronize()
            self.peak_bytes = max([self._cuda.max_memory_allocated(), *(r.peak_bytes or 0 for r in self.rows.values())])
            for row, start, end in self._events:
                if end.query():
                    row.device_seconds = (row.device_seconds or 0.0) + start.elapsed_time(end) / 1000

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._running, self._started = call.id, perf_counter()
        if self._memory is not None:
            self._memory.begin()
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()
            self._began = self._cuda.Event(enable_timing=True)
            self._began.record()

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self._running = ""
        row = self.rows.get(call.id)
        if row is None:
            row = self.rows[call.id] = Row(effect=call.type.effect)
            row.outputs = [described(port, value) for port, value in outputs.items()]
        elif not row.calls:
            row.outputs = [described(port, value) for port, value in outputs.items()]
        row.calls += 1
        row.seconds += seconds
        self._measure(row, seconds)

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        row = self.rows.setdefault(call.id, Row(effect=call.type.effect))
        if self._running == call.id:
            row.calls += 1
            row.seconds += perf_counter() - self._started
            self._running = ""

    def _measure(self, row: Row, seconds: float) -> None:
        if self._memory is not None:
            row.peak_bytes = max(row.peak_bytes or 0, self._memory.end(seconds))
        if self._cuda is not None:
            end = self._cuda.Event(enable_timing=True)
            end.record()
            self._events.append((row, self._began, end))
            row.peak_bytes = max(row.peak_bytes or 0, self._cuda.max_memory_allocated())

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self.load_seconds += seconds
        row = self.rows.setdefault(holder.node, Row())
        loaded = row.detail.setdefault("loaded", {})
        loaded[part] = loaded.get(part, 0.0) + seconds

    def detail(self, call: CallInfo | None, values: Mapping[str, Any]) -> None:
        if call is not None:
            self.rows.setdefault(call.id, Row(effect=call.type.effect)).detail.update(values)


def described(port: str, value: Any) -> dict[str, Any]:
    """An output in the form of the record."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], Port):
        kind = f"list[{type(value[0]).__name__}]"
        return {**facts_of(value[0]), "port": port, "type": kind, "count": len(value)}
    return {**facts_of(value), "port": port, "type": type(value).__name__}


class Memory:
    """Samples the resident memory of this process in a thread, in bytes; 0 if the system does not report it."""

    def __init__(self) -> None:
        self._file = Path("/proc/self/statm")
        self._page = 4096
        self.highest = 0
        self._window = self._last = 0
        self._stop = threading.Event()
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
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

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


class Turns(Observer):
    """Seconds for each iteration of every loop, and the facts of the loop's variables."""

    def __init__(self) -> None:
        self.turns: list[dict[str, Any]] = []
        self._current: dict[str, dict[str, Any]] = {}

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        facts: dict[str, Any] = {}
        for value in variables.values():
            facts.update(facts_of(value))
        self._current[loop.id] = {"loop": loop.id, "turn": index, **facts} | {"loop": loop.id, "turn": index}

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        self.turns.append({**self._current.pop(loop.id), "seconds": seconds})
