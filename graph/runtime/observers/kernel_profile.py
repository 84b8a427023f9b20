"""`--profile torch`: the kernels of each node, by the PyTorch Profiler.

The profiler works in windows. A window opens before a chosen call, and closes before the next call that is not chosen,
after `LONGEST` seconds, or at the end of the run. Its events are added up and dropped then, so that a long run does not
fill the memory.

The thread that runs the plan opens and closes windows: the profiler belongs to the thread that started it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import perf_counter, perf_counter_ns
from typing import Any

from ...contract.events import CallInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from ..clock import OTHER as OUTSIDE
from ..clock import Clock
from .chosen_calls import ChosenCalls
from .kernel_events import OTHER, Kernel, Marker, kernels_of

LONGEST = 1.0
"""Seconds after which a window closes with the call that is running then."""

PROFILER = f"{OUTSIDE} profiler"

_ONE = threading.Lock()
"""There is one PyTorch Profiler in a process."""


def _is_taken() -> bool:
    """Whether a profiler runs in this process. To start another one would end it."""
    from torch.autograd import profiler

    return bool(profiler._is_profiler_enabled)


def quiet_profiler() -> None:
    """Let the profiler's library write nothing to stderr, unless the environment says otherwise.

    The library reads this when torch is imported.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@dataclass
class KernelRow:
    """A kernel (on a CPU: an operator) of one node, over all its launches in the windows."""

    calls: int = 0
    device_seconds: float | None = None
    seconds: float = 0.0


class KernelProfile(Observer):
    """Adds up the kernels under the node that launched them.

    `first` receives the beginning of each call before all other observers, so that no node is charged for the start of
    the profiler.

    Args:
        chosen: The calls to profile.
        say: Takes the text of a warning.
        lanes: Takes the kernels of each window, with the difference between their clock and `perf_counter`, in
            nanoseconds.
        clock: The clock of the run; the profiler's own time is a part of `(other)` there.
    """

    def __init__(
        self,
        chosen: ChosenCalls,
        say: Callable[[str], None],
        lanes: Callable[[Sequence[Kernel], int], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.chosen, self.say, self.lanes, self.clock = chosen, say, lanes, clock or Clock()
        self.first = _Opening(self)
        self.rows: dict[tuple[str, str], KernelRow] = {}
        self.seconds = 0.0
        self.windows = 0
        self._cuda = self._works = self._refused = self._over = self._pending = False
        self._profiler: Any = None
        self._range: Any = None
        self._began = 0.0
        self._markers: list[Marker] = []

    def prepare(self) -> None:
        """Start the profiler once in the thread that imported torch: its library complains elsewhere."""
        if "torch" in sys.modules and _ONE.acquire(blocking=False):
            from torch.autograd.profiler import profile

            with self._own_time():
                try:
                    if not _is_taken():
                        with suppress(RuntimeError), profile(use_cpu=True, use_kineto=True):  # `_open` tells of errors
                            pass
                finally:
                    _ONE.release()

    @contextmanager
    def _own_time(self) -> Iterator[None]:
        """Time inside `with` is the profiler's own."""
        began = perf_counter()
        try:
            with self.clock.during(PROFILER):
                yield
        finally:
            self.seconds += perf_counter() - began

    @contextmanager
    def around_steps(self) -> Iterator[None]:
        """Surrounds the steps of the plan, in the thread that runs them."""
        self._works = _ONE.acquire(blocking=False)
        if not self._works:
            self._refused = True
            self.say("another run of this process is profiled: no kernels are measured in this one")
        try:
            yield
        finally:
            if self._works:
                try:
                    self._close()
                finally:
                    self._works = False
                    _ONE.release()

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        self._cuda = run.device.startswith("cuda")

    def run_finished(self, status: str, error: BaseException | None) -> None:
        self._over = True
        if self._pending:
            self.say("the run ended before the kernels of the last window were added up: they are left out")
        elif status == "done" and not self.windows and not self._refused:
            self.say("no kernels were measured: no call that ran is chosen by --profile-nodes and --profile-steps")
        elif status == "done" and (problem := self.chosen.problem()):
            self.say(problem)

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self.chosen.loop_started(loop)

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self.chosen.turn_started(loop, index)

    def loop_finished(self, loop: LoopInfo) -> None:
        self.chosen.loop_finished()

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self._end_call()
        if self._profiler is not None and perf_counter() - self._began > LONGEST:
            self._close()

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        self._close()

    def begin(self, call: CallInfo) -> None:
        """Open a window if the call is chosen, and mark the beginning of the call in it."""
        if not self._works:
            return
        if not self.chosen.holds(call):
            self._close()
            return
        if self._profiler is None and not self._open():
            return
        from torch.autograd.profiler import record_function

        marker = Marker(call.id, f"{Marker.PREFIX}{len(self._markers)}", perf_counter_ns())
        self._markers.append(marker)
        self._range = record_function(marker.text)
        self._range.__enter__()

    def _end_call(self) -> None:
        if self._range is not None:
            ended, self._range = self._range, None
            ended.__exit__(None, None, None)

    def _open(self) -> bool:
        """Start the profiler. False if it cannot start."""
        with self._own_time():
            return self._start()

    def _start(self) -> bool:
        import torch
        from torch.autograd.profiler import profile

        if _is_taken():
            return self._refuse("the program profiles itself already")
        if self._cuda:
            torch.cuda.synchronize()  # work from before the window would count in it
        # `torch.profiler.profile` is this profiler and further services, for which it imports torch's compiler.
        made = profile(use_cpu=True, use_device="cuda" if self._cuda else None, use_kineto=True)
        try:
            made.__enter__()
        except RuntimeError as error:
            return self._refuse(str(error))
        self._profiler, self._began, self._pending = made, perf_counter(), True
        self.windows += 1
        return True

    def _refuse(self, reason: str) -> bool:
        self._works, self._refused = False, True
        _ONE.release()
        self.say(f"the PyTorch Profiler cannot start, so no kernels are measured from here on: {reason}")
        return False

    def _close(self) -> None:
        """Stop the profiler, if it runs, and add its events up."""
        self._end_call()
        profiler, self._profiler = self._profiler, None
        markers, self._markers = self._markers, []
        if profiler is None:
            return
        with self._own_time():
            try:
                profiler.__exit__(None, None, None)  # waits for the GPU
                if not self._over:  # else the record was written already
                    self._add_up(profiler, markers)
            except Exception as error:  # torch's events changed, or the GPU failed: the run itself goes on
                self.say(f"kernels of one window are not measured: {type(error).__name__}: {error}")
        self._pending = False

    def _add_up(self, profiler: Any, markers: Sequence[Marker]) -> None:
        """Add the kernels of a window to the rows, and pass them on to the lanes."""
        found, offset = kernels_of(profiler.kineto_results.events(), markers)
        rows = {key: replace(row) for key, row in self.rows.items()}
        for kernel in found:
            row = rows.setdefault((kernel.node, kernel.name), KernelRow())
            row.calls += 1
            row.seconds += kernel.own_ns / 1e9
            if kernel.on_device:
                row.device_seconds = (row.device_seconds or 0.0) + kernel.ns / 1e9
        self.rows = rows  # at once: after an interrupt the main thread reads them
        if self.lanes is not None:
            self.lanes(found, offset)

    def listed(self) -> list[dict[str, Any]]:
        """The rows for the record, the longest first."""
        rows = [{"node": node, "name": name, **vars(row)} for (node, name), row in self.rows.items()]
        return sorted(rows, key=longest_first)


def longest_first(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A sort key that puts the rows of the longest kernels first."""
    return -(row["device_seconds"] or 0.0), -row["seconds"], row["node"], row["name"]


class _Opening(Observer):
    """Tells a `KernelProfile` of the beginning of each call."""

    def __init__(self, profile: KernelProfile) -> None:
        self.profile = profile

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.profile.begin(call)


__all__ = ["LONGEST", "OTHER", "KernelProfile", "KernelRow"]
