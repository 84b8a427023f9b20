"""Events of the PyTorch Profiler: which are kernels, and which node launched each.

An event of Kineto, the library behind the profiler, is a kernel on a GPU, a call of the CUDA runtime, an operator of
torch on a CPU, or a range that a program marks. A kernel and the call that launched it have one correlation number.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

OTHER = "(other)"
"""Kernels between nodes: the components that are loaded, the executor, and work of other threads."""

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")
OPERATORS = ("cpu_op", "user_annotation")

CUDA_CALL = re.compile(r"cu(da)?[A-Z]\w*$")
"""Names of functions of the CUDA runtime and driver, such as `cudaLaunchKernel` and `cuLaunchKernelEx`."""


@dataclass
class Marker:
    """A call of a node in a window.

    Attributes:
        node: Its path.
        text: The name of its range in the profiler's events.
        perf_ns: `perf_counter_ns` shortly before its range began.
    """

    PREFIX: ClassVar[str] = "sgd call "

    node: str
    text: str
    perf_ns: int


@dataclass(frozen=True)
class Kernel:
    """A launch of a kernel; without a GPU, a call of an operator.

    Attributes:
        node: Path of the node that launched it, or `OTHER`.
        name: Its name.
        start_ns: Its beginning, by the profiler's clock.
        ns: Its duration.
        own_ns: Host time: on a GPU of the launch, on a CPU of the operator without the operators that it calls.
        on_device: Whether it ran on a GPU.
        lane: The GPU's stream, or the thread.
    """

    node: str
    name: str
    start_ns: int
    ns: int
    own_ns: int
    on_device: bool
    lane: int


@dataclass(frozen=True)
class _Call:
    """A marked call in the profiler's clock."""

    node: str
    start_ns: int
    end_ns: int
    thread: int


def kernels_of(events: Iterable[Any], markers: Sequence[Marker]) -> tuple[list[Kernel], int]:
    """The kernels of a window; the operators if there is no kernel, as on a CPU.

    Args:
        events: Events of Kineto (`torch._C._autograd._KinetoEvent`).
        markers: The calls of the window.

    Returns:
        The kernels, and the difference between the clock of the events and `perf_counter_ns`.
    """
    known = {marker.text: marker for marker in markers}
    calls: list[_Call] = []
    offsets: list[int] = []
    kernels: list[Any] = []
    operators: list[Any] = []
    launches: dict[int, Any] = {}
    numbered: dict[int, Any] = {}
    for event in events:
        kind, name = kind_of(event), event.name()
        if kind in ON_DEVICE:
            kernels.append(event)
        elif kind in LAUNCHES:
            launches[event.correlation_id()] = event
        elif kind in OPERATORS and not event.is_async():
            marker = known.get(name)
            if marker is None:
                operators.append(event)
                numbered[event.correlation_id()] = event
            else:
                start = event.start_ns()
                calls.append(_Call(marker.node, start, start + event.duration_ns(), event.device_resource_id()))
                offsets.append(start - marker.perf_ns)
    offset = min(offsets, default=0)  # the shortest way between the two readings of a clock
    if not kernels:
        return _operators(operators, _Places(calls)), offset
    threads = {call.thread for call in calls}
    places = _Places(calls, any(launch.device_resource_id() in threads for launch in launches.values()))
    # A kernel without a launch of its own, as in a CUDA graph, belongs to the operator that was running.
    begun = [launches.get(e.correlation_id()) or numbered.get(e.linked_correlation_id()) for e in kernels]
    return [_launched(*pair, places) for pair in zip(kernels, begun, strict=True)], offset


def kind_of(event: Any) -> str:
    """The kind of an event, by Kineto's names. torch 2.11 does not tell it: there the device and the name do."""
    if hasattr(event, "activity_type"):
        kind: str = event.activity_type()
        return kind
    name = event.name()
    if event.device_type().name != "CPU":
        if event.is_user_annotation():
            return "gpu_user_annotation"
        return {"Memcpy": "gpu_memcpy", "Memset": "gpu_memset"}.get(name[:6], "kernel")
    if CUDA_CALL.match(name):
        return "cuda_runtime"
    return "user_annotation" if event.is_user_annotation() else "cpu_op"


class _Places:
    """Finds the call that a moment belongs to.

    Args:
        calls: The calls of the window.
        threads: Whether events name threads as calls do. Otherwise the moment alone decides.
    """

    def __init__(self, calls: list[_Call], threads: bool = True) -> None:
        self.threads = threads
        self.calls = sorted(calls, key=lambda call: call.start_ns)
        self.starts = [call.start_ns for call in self.calls]

    def node(self, moment: int, thread: int) -> str:
        """The node that a thread ran at a moment."""
        place = bisect_right(self.starts, moment) - 1
        if place < 0:
            return OTHER
        call = self.calls[place]
        ran_there = thread == call.thread or not self.threads
        return call.node if moment <= call.end_ns and ran_there else OTHER


def _launched(event: Any, launch: Any, places: _Places) -> Kernel:
    node, own = OTHER, 0
    if launch is not None:
        node = places.node(launch.start_ns(), launch.device_resource_id())
        own = launch.duration_ns() if kind_of(launch) in LAUNCHES else 0
    lane = event.device_resource_id()
    return Kernel(node, event.name(), event.start_ns(), event.duration_ns(), own, True, lane)


def _operators(events: list[Any], places: _Places) -> list[Kernel]:
    """Operators with their own time: the time in an operator without the time in the operators that it calls."""
    found: list[Kernel] = []
    spans = [(e.device_resource_id(), e.start_ns(), -e.duration_ns(), e.name()) for e in events]
    spans.sort()
    inner = [0] * len(spans)
    around: list[int] = []
    for number, (thread, start, negative, _) in enumerate(spans):
        while around and (spans[around[-1]][0] != thread or spans[around[-1]][1] - spans[around[-1]][2] <= start):
            around.pop()
        if around:
            inner[around[-1]] -= negative
        around.append(number)
    for (thread, start, negative, name), within in zip(spans, inner, strict=True):
        own = max(-negative - within, 0)
        found.append(Kernel(places.node(start, thread), name, start, -negative, own, False, thread))
    return found
