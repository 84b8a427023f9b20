"""What measuring costs a run: `OMP_NUM_THREADS=1 python tests/benchmarks/profile_cost.py`.

The quickstart runs without observers and with those of the record, in turns, in one thread. The times are processor
time of that thread, so that other work on the machine does not count. The memory sampler has a thread of its own, and
is measured by `overhead.py`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sgd.graph.compiler.compile import compile
from sgd.graph.contract.events import Observer, Observers
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.import_times import watched
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.run import around_run

PAIRS = 5


def seconds(plan: Any, folder: Path, measured: bool) -> float:
    """Processor seconds of one run."""
    recorder = Recorder()
    observer: Observer = Observers(recorder.observers) if measured else Observer()
    context = Context(folder, observer, overwrite=True)
    with around_run(plan, context), watched(recorder.clock):
        began = time.thread_time()
        observer.run_started(plan, context)
        Executor(plan, context, observer).execute()
        observer.run_finished("done", None)
        return time.thread_time() - began


def ratios(pairs: int = PAIRS, **inputs: Any) -> list[float]:
    """Time with observers over time without, for each pair; the two swap places from pair to pair."""
    plan = compile("quickstart", inputs=inputs)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        seconds(plan, Path(folder), True)  # imports
        for number in range(pairs):
            order = [True, False] if number % 2 else [False, True]
            times = {measured: seconds(plan, Path(folder), measured) for measured in order}
            found.append(times[True] / times[False])
    return found


if __name__ == "__main__":
    found = ratios(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS, steps=10)
    print("with / without:", " ".join(f"{ratio:.4f}" for ratio in found), f"median {statistics.median(found):.4f}")
