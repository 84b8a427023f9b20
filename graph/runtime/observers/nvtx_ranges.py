"""`--profile nvtx`: NVTX ranges for steps, nodes, and the parts of nodes, for NVIDIA Nsight Systems.

`cudaProfilerStart` and `cudaProfilerStop` stand around the chosen calls, for `nsys profile
--capture-range=cudaProfilerApi`. Without a tool that listens, all of these calls do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from ...contract.events import CallInfo, LoopInfo, Observer
from .chosen_calls import EVERY, ChosenCalls


class Ranges(Protocol):
    """The receiver of ranges. Ranges nest within the thread that pushes them."""

    def push(self, name: str) -> None:
        """Begin a range."""

    def pop(self) -> None:
        """End the last range that began."""

    def start(self) -> None:
        """Begin to capture."""

    def stop(self) -> None:
        """End the capture."""


class TorchRanges:
    """Ranges by torch, in NVTX's default domain."""

    def __init__(self) -> None:
        import torch

        self.push, self.pop = torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop
        self.start = torch.cuda.profiler.start

    def stop(self) -> None:
        import torch

        torch.cuda.synchronize()  # kernels that still wait belong to the capture
        torch.cuda.profiler.stop()


class NvtxRanges(Observer):
    """Pushes a range for each chosen step, call, and part of a call.

    Args:
        chosen: The calls to profile.
        ranges: Receives the ranges.
        say: Takes the text of a warning.
    """

    def __init__(self, chosen: ChosenCalls, ranges: Ranges, say: Callable[[str], None] = lambda _: None) -> None:
        self.chosen, self.ranges, self.say = chosen, ranges, say
        self.first = _Opening(self)
        self._depth = 0
        self._turns: list[bool] = []
        self._captures = self._inside = False

    @contextmanager
    def around_steps(self) -> Iterator[None]:
        """Surrounds the steps of the plan, in the thread that runs them: ends the ranges that an error left open."""
        try:
            yield
        finally:
            while self._depth:
                self._pop()
            self._capture(False)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        if status == "done" and (problem := self.chosen.problem()):
            self.say(problem)

    def _push(self, name: str) -> None:
        self.ranges.push(name)
        self._depth += 1

    def _pop(self) -> None:
        self._depth -= 1
        self.ranges.pop()

    def _capture(self, wanted: bool) -> None:
        if wanted != self._captures:
            self._captures = wanted
            (self.ranges.start if wanted else self.ranges.stop)()

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self.chosen.loop_started(loop)

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self.chosen.turn_started(loop, index)
        chosen = self.chosen.turn_is_chosen()
        self._turns.append(chosen)
        self._capture(chosen and self.chosen.pattern == EVERY)  # so that the range of the step is captured too
        if chosen:
            self._push(f"{loop.id} {index}")

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        if self._turns.pop():
            self._pop()

    def loop_finished(self, loop: LoopInfo) -> None:
        self.chosen.loop_finished()

    def begin(self, call: CallInfo) -> None:
        """Begin the range of a call, if it is chosen."""
        self._inside = self.chosen.holds(call)
        self._capture(self._inside)
        if self._inside:
            self._push(f"{call.id} ({call.type.name})")

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        if self._inside:
            self._pop()
        self._inside = False

    def range_started(self, call: CallInfo | None, kind: str, name: str) -> None:
        if self._inside:
            self._push(f"{kind} {name}")

    def range_finished(self, call: CallInfo | None, kind: str, name: str) -> None:
        if self._inside:
            self._pop()


class _Opening(Observer):
    """Tells `NvtxRanges` of the beginning of each call."""

    def __init__(self, ranges: NvtxRanges) -> None:
        self.ranges = ranges

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.ranges.begin(call)
