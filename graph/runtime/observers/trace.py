"""`--trace`: the course of a run as a trace for Perfetto (https://ui.perfetto.dev) and chrome://tracing.

The form is the JSON object of the Trace Event Format (Google, "Trace Event Format", 2016): complete events (`X`) with a
beginning and a duration in microseconds, instants (`i`), counters (`C`) and names of lanes (`M`). Time 0 is the start
of the process, or of the call from Python.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, time
from typing import Any

from ...contract.events import CallInfo, HolderInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from .kernel_events import Kernel
from .trace_file import GrowingFile, TextParts, as_json, finish

PROCESSES = 2
"""Process numbers of each rank in a trace: 1 and 2 are rank 0 and its GPU, 3 and 4 are rank 1 and its GPU."""
NODES, STEPS, LOADING, FIRST_FREE = 1, 2, 3, 4
SAMPLE_SECONDS = 0.05
MOST_KERNELS = 1_000_000
"""Kernels in one file: about 150 MB of text."""


class Trace(Observer):
    """Writes each event of a run into a file as it happens.

    Args:
        file: The file. A rank other than 0 keeps text in memory, which rank 0 adds to its file (`complete`).
        started: Start of this process in seconds since the epoch. It is time 0, unless `count_from` sets another.
        say: Takes the text of a warning.
        rank: The number of this process among several; None for one alone.
    """

    def __init__(
        self, file: GrowingFile | TextParts, started: float, say: Callable[[str], None], rank: int | None = None
    ) -> None:
        self.file, self.say, self.rank = file, say, rank
        self.process = 1 + PROCESSES * (rank or 0)
        self._of_rank = f" of rank {rank}" if rank is not None else ""
        self._started, self._zero, self._began = started, perf_counter() - (time() - started), 0.0
        self._facts: dict[str, Any] = {}
        self._between = ""
        self._lock = threading.Lock()
        self._lanes: dict[tuple[int, str], int] = {}
        self._node_lane, self._turn_lane = NODES, STEPS
        self._nodes: list[tuple[str, float, dict[str, Any]]] = []
        self._turns: list[tuple[str, float, dict[str, Any]]] = []
        self._memory: Callable[[], int | None] = lambda: None
        self._stop = threading.Event()
        self._kernels = self._left_out = 0
        if not rank:
            file.add('{"displayTimeUnit":"ms","traceEvents":[\n')

    def count_from(self, zero: float) -> None:
        """Set time 0 of the trace, before the run starts, in seconds since the epoch: rank 0's start."""
        self._began = max(self._started - zero, 0.0) * 1e6
        self._zero += zero - self._started

    def beside(self) -> Observer:
        """An observer that writes the calls and turns of a second thread into lanes of their own."""
        other = copy.copy(self)
        other._nodes, other._turns = [], []
        other._node_lane = self._lane(self.process, "overlapped nodes")
        other._turn_lane = self._lane(self.process, "overlapped steps")
        return other

    def _write(self, **event: Any) -> None:
        self._add([as_json(event)])

    def _add(self, events: Sequence[str]) -> None:
        if events:
            with self._lock:
                self.file.add(self._between + ",\n".join(events))
                self._between = ",\n"

    def _now(self) -> float:
        """Microseconds since time 0."""
        return (perf_counter() - self._zero) * 1e6

    def _name(self, process: int, lane: int, name: str) -> None:
        self._write(ph="M", name="thread_name", pid=process, tid=lane, args={"name": name})
        self._write(ph="M", name="thread_sort_index", pid=process, tid=lane, args={"sort_index": lane})

    def _span(
        self, lane: int, name: str, start: float, kind: str, about: Mapping[str, Any], end: float | None = None
    ) -> None:
        """Write a span from `start` to `end`, or until now, in microseconds since time 0."""
        end = self._now() if end is None else end
        span = {"ts": round(start, 3), "dur": round(max(end - start, 0.0), 3)}
        self._write(ph="X", name=name, cat=kind, pid=self.process, tid=lane, **span, args=about)

    def _lane(self, process: int, name: str) -> int:
        """The number of a lane; a new one gets its name."""
        found = self._lanes.get((process, name))
        if found is None:
            found = self._lanes[process, name] = FIRST_FREE + len(self._lanes)
            self._name(process, found, name)
        return found

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        self._write(ph="M", name="process_name", pid=self.process, args={"name": f"sgd {plan.name}{self._of_rank}"})
        if self.rank is not None:
            self._write(ph="M", name="process_sort_index", pid=self.process, args={"sort_index": self.rank})
        for lane, name in ((NODES, "nodes"), (STEPS, "steps"), (LOADING, "loading")):
            self._name(self.process, lane, name)
        self._span(NODES, "(before the first node)", self._began, "phase", {})
        self._memory = _memory(run.device)
        self._sample()
        threading.Thread(target=self._samples, daemon=True).start()

    def _samples(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        found = self._memory()
        if found is not None:
            self._write(ph="C", name="memory", pid=self.process, ts=round(self._now(), 3), args={"bytes": found})

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._nodes.append((f"{call.id} · {call.type.name}", self._now(), {}))

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        if self._nodes:
            name, start, about = self._nodes.pop()
            self._span(self._node_lane, name, start, "node", about)

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        while self._nodes:
            name, start, about = self._nodes.pop()
            self._span(self._node_lane, name, start, "node", {**about, "failed": type(error).__name__})

    def range_started(self, call: CallInfo | None, kind: str, name: str) -> None:
        self._nodes.append((f"{kind} {name}", self._now(), {}))

    def range_finished(self, call: CallInfo | None, kind: str, name: str) -> None:
        if self._nodes:
            text, start, about = self._nodes.pop()
            self._span(self._node_lane, text, start, kind, about)

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self._turns.append((f"{loop.id} {index}", self._now(), {"loop": loop.id, "turn": index}))

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        if self._turns:
            name, start, about = self._turns.pop()
            self._span(self._turn_lane, name, start, "turn", about)

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        start = self._now() - seconds * 1e6
        self._span(LOADING, f"{holder.node} · {part}", start, "load", {"node": holder.node, "part": part})

    def part_prefetched(self, holder: HolderInfo, part: str, began: float, ended: float) -> None:
        name, lane = f"{holder.node} · {part}", self._lane(self.process, "prefetch")
        start, end = ((when - self._zero) * 1e6 for when in (began, ended))
        self._span(lane, name, start, "prefetch", {"node": holder.node, "part": part}, end)

    def part_released(self, holder: HolderInfo, part: str) -> None:
        self._instant(LOADING, f"{holder.node} · {part} released", "load", {"node": holder.node, "part": part})

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        node = {"node": call.id} if call is not None else {}
        self._instant(self._lane(self.process, kind), _summary(kind, data), kind, {**node, **data})

    def warned(self, call: CallInfo | None, message: str) -> None:
        name = f"{call.id}: {message}" if call is not None else message
        self._instant(self._lane(self.process, "warnings"), name, "warning", {})

    def _instant(self, lane: int, name: str, kind: str, about: Mapping[str, Any]) -> None:
        self._write(
            ph="i", s="t", name=name, cat=kind, pid=self.process, tid=lane, ts=round(self._now(), 3), args=about
        )

    def kernels(self, found: Sequence[Kernel], offset: int) -> None:
        """Write the kernels of a window of the profiler.

        Args:
            found: The kernels.
            offset: The difference between their clock and `perf_counter_ns`, in nanoseconds.
        """
        room = max(MOST_KERNELS - self._kernels, 0)
        self._left_out += max(len(found) - room, 0)
        self._kernels += min(len(found), room)
        zero = offset + int(self._zero * 1e9)
        lines, known = [], dict[tuple[str, str, int], str]()
        for kernel in found[:room]:
            key = (kernel.name, kernel.node, kernel.lane)
            rest = known.get(key)
            if rest is None:
                rest = known[key] = self._kernel(kernel)
            lines.append(f'{{"ts":{(kernel.start_ns - zero) / 1e3:.3f},"dur":{kernel.ns / 1e3:.3f},{rest}')
        self._add(lines)

    def _kernel(self, kernel: Kernel) -> str:
        """The part of a kernel's event that all its launches share."""
        process, name, kind = (self.process, "operators", "operator")
        if kernel.on_device:
            process, name, kind = (self.process + 1, f"stream {kernel.lane}", "kernel")
            if not any(place == process for place, _ in self._lanes):
                self._write(ph="M", name="process_name", pid=process, args={"name": f"GPU{self._of_rank}"})
        lane = self._lane(process, name)
        about = {
            "ph": "X",
            "name": kernel.name,
            "cat": kind,
            "pid": process,
            "tid": lane,
            "args": {"node": kernel.node},
        }
        return as_json(about)[1:]

    def run_finished(self, status: str, error: BaseException | None) -> None:
        self._stop.set()
        for lane, spans in ((NODES, self._nodes), (STEPS, self._turns)):
            while spans:
                name, start, about = spans.pop()
                self._span(lane, name, start, "unfinished", {**about, "unfinished": True})
        self._facts = {"status": status}
        if self._left_out:
            self._facts["kernels_left_out"] = self._left_out
            self.say(f"the trace holds {self._kernels:,} kernels; {self._left_out:,} more are left out")
        if self.rank is None:
            self.complete()

    def complete(self, others: Sequence[str] = (), say: Callable[[str], None] | None = None) -> None:
        """Complete the file. In a run of several processes, add the events of the other ranks first.

        Args:
            others: The text of each other rank's trace.
            say: Takes the text of a warning, at the end of a run.
        """
        assert isinstance(self.file, GrowingFile)
        self._add([text for text in others if text])
        finish(self.file, say or self.say, f'\n],"otherData":{as_json(self._facts)}}}\n')


def _summary(kind: str, data: Mapping[str, Any]) -> str:
    """A name for an event: its texts, and its yes and no. The event's arguments hold the rest."""
    said = [
        str(value) if isinstance(value, str) else name if value else f"not {name}"
        for name, value in data.items()
        if isinstance(value, str | bool)
    ]
    return " · ".join(said) or kind


def _memory(device: str) -> Callable[[], int | None]:
    """A function that gives the memory in use, in bytes: of torch on the GPU, or resident memory of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated
    try:
        import resource
    except ImportError:
        return lambda: None
    page, file = resource.getpagesize(), Path("/proc/self/statm")

    def resident() -> int | None:
        try:
            return int(file.read_bytes().split()[1]) * page
        except (OSError, ValueError, IndexError):
            return None

    return resident
