"""The cost of measuring a run: `OMP_NUM_THREADS=1 python tests/benchmarks/profile_cost.py [PAIRS]`.

Two numbers, both in processor time, so that other work on the machine counts less than in seconds of a clock:

- the share of a run that is spent inside the observers of the record and in the thread that samples memory. It is taken
  inside one run, so it hardly depends on noise. Operations are slower while they are counted: the account of the count
  is added.
- the ratio of whole runs with and without measuring, in turns. It sees everything, and single pairs differ by several
  percent. Runs whose work is remembered in the user's cache folder count nothing: set `XDG_CACHE_HOME` to an empty
  folder to see the first run of a machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sgd
from sgd.graph.contract.events import Observer, Observers
from sgd.graph.contract.machine_limits import CallCount
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.import_times import watched
from sgd.graph.runtime.observers import memory_samples
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.run import around_run
from sgd.nodes.support.work_meter import OperationMeter

PAIRS = 5


@dataclass
class Cost:
    """Processor seconds of one run, and of the parts of measuring.

    `counting` is the account of the count. Its budget is a part of `seconds`, the time by the clock. `counted` is the
    number of counted calls.
    """

    whole: float = 0.0
    observers: float = 0.0
    sampler: float = 0.0
    counting: float = 0.0
    seconds: float = 0.0
    counted: int = 0

    @property
    def share(self) -> float:
        return (self.observers + self.sampler) / self.whole + self.counting / self.seconds


def timed(observers: Observers, cost: Cost) -> None:
    """Add the time inside every method of observers to a cost."""

    def around(method: Any) -> Any:
        def measured(*arguments: Any) -> None:
            began = time.thread_time()
            try:
                method(*arguments)
            finally:
                cost.observers += time.thread_time() - began

        measured.__self__ = method.__self__  # type: ignore[attr-defined]
        return measured

    for methods in observers._listening.values():
        methods[:] = map(around, methods)


@contextmanager
def watched_parts(cost: Cost) -> Iterator[None]:
    """Inside `with`, note the memory samplers that are made and the calls that are counted."""
    samplers: list[memory_samples.Memory] = []
    start, begin, end = memory_samples.Memory.__init__, OperationMeter.begin, OperationMeter.end

    def made(self: Any, *arguments: Any) -> None:
        samplers.append(self)
        start(self, *arguments)

    def began(self: OperationMeter, *arguments: Any) -> None:
        cost.counted += 1
        begin(self, *arguments)

    def ended(self: OperationMeter) -> CallCount:
        count = end(self)
        cost.counting += count.seconds
        return count

    memory_samples.Memory.__init__ = made  # type: ignore[method-assign, assignment]
    OperationMeter.begin, OperationMeter.end = began, ended  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        memory_samples.Memory.__init__ = start  # type: ignore[method-assign]
        OperationMeter.begin, OperationMeter.end = begin, end  # type: ignore[method-assign]
        cost.sampler = sum(each.cpu_seconds for each in samplers)


def measured(plan: Any, folder: Path, more: Sequence[Observer] = ()) -> Cost:
    """Run a plan in this thread with the observers of the record, and `more`, whose time counts too."""
    recorder, cost = Recorder(), Cost()
    observer = Observers([*recorder.observers, *more])
    timed(observer, cost)
    context = Context(folder, observer, overwrite=True)
    with watched_parts(cost), around_run(plan, context), watched(recorder.clock):
        began = time.process_time()
        observer.run_started(plan, context)
        Executor(plan, context, observer).execute()
        observer.run_finished("done", None)
        cost.whole = time.process_time() - began
        cost.seconds = recorder.clock.now()
    return cost


def seconds(plan: Any, folder: Path, profile: str) -> float:
    """Processor seconds of a whole run and its record."""
    began = time.process_time()
    assert sgd.run(plan, out=folder, overwrite=True, profile=profile).status == "done"
    return time.process_time() - began


def ratios(pairs: int, first: bool, **inputs: Any) -> list[float]:
    """Time of `nodes` over that of `off`, for each pair; the two swap places from pair to pair.

    Args:
        pairs: The number of pairs.
        first: Each run is the first of its plan.
    """
    plan = sgd.compile("quickstart", inputs=inputs)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        seconds(plan, Path(folder), "nodes")  # imports
        for number in range(pairs):
            times = {}
            for profile in ("nodes", "off") if number % 2 else ("off", "nodes"):
                given = sgd.compile("quickstart", inputs=inputs) if first else plan
                times[profile] = seconds(given, Path(folder), profile)
            found.append(times["nodes"] / times["off"])
    return found


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    plan = sgd.compile("quickstart")
    with tempfile.TemporaryDirectory() as folder:
        seconds(plan, Path(folder), "off")  # imports
        for name in ("first run of a plan", "second run", "third run"):
            cost = measured(plan, Path(folder))
            parts = f"observers {cost.observers:.4f} s, sampler {cost.sampler:.4f} s, counting {cost.counting:.4f} s"
            print(f"{name}: {cost.share:.2%} of {cost.whole:.3f} s ({parts}); {cost.counted} calls counted")
    for first in (False, True):
        found = ratios(pairs, first)
        name = "first runs" if first else "later runs"
        shown = " ".join(f"{ratio:.4f}" for ratio in found)
        print(f"nodes / off, {name}: {shown}, median {statistics.median(found):.4f}")


if __name__ == "__main__":
    main()
