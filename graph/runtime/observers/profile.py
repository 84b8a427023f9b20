"""The per-node profiler: calls, seconds, device seconds and peak memory of every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ...contract.events import CallInfo, HolderInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from ...contract.ports import Port
from ..arguments import facts_of
from ..clock import LOAD, OTHER, Clock
from .device_peaks import DevicePeaks
from .device_times import DeviceTimes
from .memory_samples import Curve, Memory
from .timeline import Entry, Timeline

RELEASE = f"{OTHER} release"


@dataclass
class Row:
    """Time and memory of one call of the plan, over all iterations of loops. `seconds` is host time.

    `resumed_calls` counts the calls before the run was resumed; nothing else does. `reused` says that a result came
    from the store, and `saved_seconds` how long it took to make it there; None for a call inside of a stored loop.
    `overlapped` says that the calls were made in a second thread (`sgd exec --overlap`). `interrupted` says that the
    run ended in a call, whose time counts; `calls` does not count it.
    """

    calls: int = 0
    seconds: float = 0.0
    device_seconds: float | None = None
    peak_bytes: int | None = None
    effect: bool = False
    detail: dict[str, Any] = field(default_factory=dict)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    reused: bool = False
    saved_seconds: float | None = None
    resumed_calls: int = 0
    overlapped: bool = False
    interrupted: bool = False

    def add_device(self, seconds: float) -> None:
        self.device_seconds = (self.device_seconds or 0.0) + seconds


class Profile(Observer):
    """Measures every call.

    The clock belongs to the node that runs, less its imports and its compiling, which the clock counts by themselves.
    On a GPU, events measure device time, without synchronising before the run is over, and torch reports the
    allocated memory. On a CPU, a thread samples the resident memory of the process.
    """

    def __init__(
        self, clock: Clock | None = None, timeline: Timeline | None = None, device: DeviceTimes | None = None
    ) -> None:
        self.rows: dict[str, Row] = {}
        self.clock = clock or Clock()
        self.timeline = timeline or Timeline()
        self.device = device or DeviceTimes()
        self.memory = Curve()
        self.peak_bytes: int | None = None
        self._memory: Memory | None = None
        self._running: CallInfo | None = None
        self._started = self._before = 0.0
        self._began: Any = None
        self._part = 0.0
        self._turns: list[int] = []
        self._cuda: Any = None
        self._card = 0
        self._peaks: DevicePeaks | None = None

    def beside(self, clock: Clock, same_device: bool) -> Profile:
        """The profiler of the calls of a second thread, with a clock of its own. Their rows stand among these.

        The curve of memory is that of the run's own device.
        """
        other = type(self)(clock, self.timeline, DeviceTimes(self.device.cuda))
        other.rows, other._cuda = self.rows, self._cuda
        if same_device:
            other.memory, other._peaks = self.memory, self._peaks
        elif self._cuda is not None:
            other._peaks = DevicePeaks(self._cuda)
        other._memory = Memory() if self._memory is not None else None
        return other

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        if run.device.startswith("cuda"):
            import torch

            self._cuda = torch.cuda
            self.device.cuda = torch.cuda
            self._peaks = DevicePeaks(torch.cuda)
            self._card = torch.cuda.current_device()
        else:
            self._memory = Memory(self.memory.add)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        if status == "interrupted" and self._running is not None:
            self._interrupted(self._running)
        if self._memory is not None:
            self._memory.close()
            self.peak_bytes = self._memory.highest or None
        if self._cuda is not None:
            self.peak_bytes = max([self._cuda.max_memory_allocated(), *(r.peak_bytes or 0 for r in self.rows.values())])
            self.device.read(wait=status != "interrupted")  # the device may stay busy after an interrupt

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self._turns.append(0)

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self._turns[-1:] = [index]

    def loop_finished(self, loop: LoopInfo) -> None:
        self._turns.pop()

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        if self._memory is not None:
            self._memory.begin()
        if self._peaks is not None:
            self._peaks.begin(call.id)
            self._began = self.device.mark()
        self._before = self.clock.seconds_of(call.id)
        self.clock.switch(call.id)
        self._running, self._started = call, perf_counter()

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        own, over = self._ended(call), perf_counter()
        inside = max(over - self._started - own, 0.0)  # imports and compiling
        around = max(own - max(seconds - inside, 0.0), 0.0)  # checks and observers
        self.clock.give(around, call.id)
        own -= around
        row = self.rows.get(call.id)
        if row is None:
            row = self.rows[call.id] = Row(effect=call.type.effect)
        if not row.calls:
            row.outputs = [described(port, value) for port, value in outputs.items()]
        row.calls += 1
        row.seconds += own
        step = self._turns[-1] if self._turns else None
        start = self._started - self.clock.started
        entry = self.timeline.add(Entry(call.id, "node", start, over - self._started, step))
        self._measure(row, entry, seconds)

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        row = self.rows.setdefault(call.id, Row(effect=call.type.effect))
        if self._running is call:
            row.calls += 1
            row.seconds += self._ended(call)
            if self._peaks is not None:
                row.peak_bytes = max(row.peak_bytes or 0, self._peaks.end(call.id))
            start = self._started - self.clock.started
            self.timeline.add(Entry(call.id, "node", start, perf_counter() - self._started))
        self.clock.switch()

    def _interrupted(self, call: CallInfo) -> None:
        """End a call that outlives an interrupt. Its thread has lost the clock, so that its time stands still."""
        self._running = None
        row = self.rows.setdefault(call.id, Row(effect=call.type.effect))
        row.interrupted = True
        row.seconds += self.clock.seconds_of(call.id) - self._before
        start = self._started - self.clock.started
        self.timeline.add(Entry(call.id, "node", start, perf_counter() - self._started))

    def _ended(self, call: CallInfo) -> float:
        """End a call. Returns its own seconds, without imports and compiling."""
        self._running = None
        self.clock.switch()
        return self.clock.seconds_of(call.id) - self._before

    def _measure(self, row: Row, entry: Entry, seconds: float) -> None:
        if self._memory is not None:
            row.peak_bytes = max(row.peak_bytes or 0, self._memory.end(seconds))
        if self._peaks is not None:

            def receive(found: float) -> None:
                row.add_device(found)
                entry.add_device(found)

            self.device.between(self._began, self.device.mark(), receive)
            peak = self._peaks.end(entry.name)
            row.peak_bytes = max(row.peak_bytes or 0, peak)
            self.memory.add(perf_counter(), peak)

    def part_acquiring(self, holder: HolderInfo, part: str) -> None:
        self._part = perf_counter()
        self._before = self.clock.seconds_of(LOAD)
        self.clock.switch(LOAD)

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self.clock.switch()
        own = self.clock.seconds_of(LOAD) - self._before
        row = self.rows.setdefault(holder.node, Row())
        loaded = row.detail.setdefault("loaded", {})
        loaded[part] = loaded.get(part, 0.0) + own
        start = self._part - self.clock.started
        self.timeline.add(Entry(holder.node, "load", start, perf_counter() - self._part, part=part))
        if self._cuda is not None and self._cuda.current_device() == self._card:  # another device has no curve
            self.memory.add(perf_counter(), self._cuda.memory_allocated())

    def part_releasing(self, holder: HolderInfo, part: str) -> None:
        self.clock.switch(RELEASE)

    def part_released(self, holder: HolderInfo, part: str) -> None:
        self.clock.switch()

    def detail(self, call: CallInfo | None, values: Mapping[str, Any]) -> None:
        if call is not None:
            self.rows.setdefault(call.id, Row(effect=call.type.effect)).detail.update(values)


def described(port: str, value: Any) -> dict[str, Any]:
    """An output in the form of the record."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], Port):
        kind = f"list[{type(value[0]).__name__}]"
        return {**facts_of(value[0]), "port": port, "type": kind, "count": len(value)}
    return {**facts_of(value), "port": port, "type": type(value).__name__}
