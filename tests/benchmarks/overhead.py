"""The cost of the executor and the command line: `python tests/benchmarks/overhead.py`.

Each time is the least of several repeats: other work on the machine only ever adds to it. The repeats of the executor
are many and short, so that some fall between the other work, and without the garbage collector, which also walks
everything that the process holds beside.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.machines import TYPES, Cell, call, graph, loop, plan_of
from sgd.graph.compiler.ir import Graph, Var
from sgd.graph.contract.events import Observer, Observers
from sgd.graph.contract.text_tables import columns
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.observers.memory_samples import Memory
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.run import run

CALLS = 1_000
REPEATS = 60
RUN_CALLS = 10_000
NODES = 500
BUDGETS = {
    "executor, a call": 20e-6,
    "executor, a call and a turn": 20e-6,
    "executor, a call with a plain value over an edge": 20e-6,
    "executor and recorder, a call": 40e-6,
    "compiling a graph, a node": 1e-3,
    "sgd check quickstart": 0.5,
    "sgd --help": 0.2,
}


def best(work: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """The least seconds of several runs, without the garbage collector."""
    times = []
    collects = gc.isenabled()
    for _ in range(repeats):
        gc.disable()
        try:
            began = clock()
            work()
            times.append(clock() - began)
        finally:
            if collects:
                gc.enable()
    return min(times)


def chain(calls: int, turns: int) -> Graph:
    """A loop whose every turn passes a value through trivial nodes one after the other."""
    before = Var("l", "s")
    items = []
    for number in range(calls):
        items.append(call(f"l.n{number}", "m.scale", a=before if number == 0 else f"$l.n{number - 1}", by=1))
    body = graph(*items, s=f"$l.n{calls - 1}")
    return graph(call("a", "m.const", value=1), loop("l", {"i": list(range(turns))}, body, s="$a"), out="$l:s")


def plain(turns: int) -> Graph:
    """A loop whose variable is a plain value, checked against the parameter's type and bounds at every turn."""
    body = graph(call("l.x", "m.scale", a="$a", by=Var("l", "i")), s="$l.x")
    return graph(call("a", "m.const", value=1), loop("l", {"i": [1] * turns}, body, s="$a"), out="$l:s")


def direct(count: int) -> Cell:
    """The same calls, by Python alone."""
    function = TYPES["m.scale"].function
    value = Cell(1)
    for _ in range(count):
        value = function(a=value, by=1)
    return value


def executed(given: Graph, observer: Observer, repeats: int = REPEATS) -> float:
    """Seconds to run a graph with an observer."""
    plan = plan_of(given, ("prune", "parts"))

    def work() -> None:
        found = Executor(plan, Context(Path("."), observer), observer).execute()
        assert found["out"].value == 1

    return best(work, repeats, time.thread_time)  # it runs in this thread, whatever else does


def recorded(given: Graph) -> float:
    """Seconds to run a graph with everything that `sgd.run` listens with, the record included."""
    plan = plan_of(given, ("prune", "parts"))

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert run(plan, out=folder).status == "done"

    return best(work, 3)


def per_call() -> dict[str, float]:
    """Seconds per call beyond those of the function itself."""
    bare = best(lambda: direct(CALLS), REPEATS, time.thread_time)
    recorder = Recorder()
    return {
        "executor, a call": (executed(chain(20, CALLS // 20), Observer()) - bare) / CALLS,
        "executor, a call and a turn": (executed(chain(1, CALLS), Observer()) - bare) / CALLS,
        "executor, a call with a plain value over an edge": (executed(plain(CALLS), Observer()) - bare) / CALLS,
        "executor and recorder, a call": (
            executed(chain(20, CALLS // 20), Observers([recorder.profile, recorder.turns, recorder])) - bare
        )
        / CALLS,
        "whole run with its record, a call": recorded(chain(100, RUN_CALLS // 100)) / RUN_CALLS - bare / CALLS,
        "compiling a graph, a node": best(lambda: plan_of(chain(NODES, 1)), 3) / NODES,
    }


def sampling(seconds: float = 2.0) -> float:
    """The share of a run that goes into sampling its memory: the thread's processor time beside a busy thread."""
    memory = Memory()
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        sum(range(1000))
    memory.close()
    return memory.cpu_seconds / passed


def command(*words: str) -> float:
    """Seconds of a processor that a command takes, from the start of its process to its end."""

    def work() -> None:
        subprocess.run([sys.executable, "-m", "sgd.graph.cli.main", *words], check=True, capture_output=True)

    return best(work, 5, _seconds_of_children)


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands() -> dict[str, float]:
    return {"sgd check quickstart": command("check", "quickstart"), "sgd --help": command("--help")}


def shown(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds:.3f} s"


def main() -> None:
    rows = [["", "measured", "budget"]]
    for name, seconds in {**per_call(), **commands()}.items():
        rows.append([name, shown(seconds), shown(BUDGETS[name]) if name in BUDGETS else ""])
    rows.append(["memory sampling, share of a run", f"{sampling():.2%}", "1.00%"])
    print("\n".join(columns(rows, right=(1, 2))))


if __name__ == "__main__":
    main()
