"""Times of a GPU, with a double of `torch.cuda`: its work is asynchronous, and it notes each wait for it."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, graph, loop, plan_of
from sgd.graph.compiler.ir import Var
from sgd.graph.runtime.run import run


class Cuda:
    """A GPU that works in order. `work` queues seconds of work; the host goes on at once."""

    def __init__(self) -> None:
        self.queued = 0.0
        self.finished = 0.0
        self.log: list[str] = []
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing
                self.at: float | None = None

            def record(self) -> None:
                self.at = cuda.queued

            def query(self) -> bool:
                return self.at is not None and self.at <= cuda.finished

            def synchronize(self) -> None:
                cuda.log.append("wait")
                cuda.finished = cuda.queued

            def elapsed_time(self, end: Any) -> float:
                return 1000.0 * (end.at - self.at)

        self.Event = Event

    def work(self, seconds: float) -> None:
        self.queued += seconds

    def synchronize(self) -> None:
        self.log.append("synchronize")
        self.finished = self.queued

    def reset_peak_memory_stats(self) -> None:
        pass

    def max_memory_allocated(self) -> int:
        return 1000

    def memory_allocated(self) -> int:
        return 500

    def current_device(self) -> int:
        return 0

    def get_device_name(self) -> str:
        return "Double"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    double = Cuda()
    torch = types.ModuleType("torch")
    torch.cuda = double  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)

    def busy(a: Cell, by: int = 2) -> Cell:
        double.log.append("node")
        double.work(0.5 * by)
        return Cell(a.value)

    monkeypatch.setitem(machines.TYPES, "m.scale", replace(machines.TYPES["m.scale"], function=busy))
    return double


def looped() -> Any:
    body = graph(call("l.x", "m.scale", a=Var("l", "c")), call("l.y", "m.scale", a="$l.x", by=4), o="$l.y")
    return graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o")


def test_nodes_and_turns_have_the_time_of_their_own_work_and_nothing_waits_before_the_end(
    tmp_path: Path, cuda: Cuda
) -> None:
    record = run(plan_of(looped()), out=tmp_path, device="cuda").record
    rows = {row["name"]: row for row in record["nodes"]}
    assert rows["l.x"]["device_seconds"] == pytest.approx(3 * 1.0)
    assert rows["l.y"]["device_seconds"] == pytest.approx(3 * 2.0)
    assert rows["l"]["device_seconds"] == pytest.approx(9.0)
    assert rows["cs"]["device_seconds"] == 0
    assert rows["(other)"]["device_seconds"] is None
    assert all(row["seconds"] < 0.5 for row in rows.values())  # the host waited for none of it
    assert [step["device_seconds"] for step in record["steps"]] == pytest.approx([3.0, 3.0, 3.0])
    assert cuda.log == ["node"] * 6 + ["wait"]
    entries = [e for e in record["timeline"] if e["name"] == "l.y"]
    assert [(e["step"], e["device_seconds"]) for e in entries] == [(0, 2.0), (1, 2.0), (2, 2.0)]
    assert {point["bytes"] for point in record["memory"]} == {1000}
    assert record["environment"]["device"] == "Double"


def test_after_an_interrupt_only_finished_work_has_a_time(cuda: Cuda) -> None:
    from sgd.graph.runtime.observers.device_times import DeviceTimes

    times = DeviceTimes(cuda)
    found: list[float] = []
    first = times.mark()
    cuda.work(1.0)
    second = times.mark()
    cuda.finished = cuda.queued
    cuda.work(1.0)
    times.between(first, second, found.append)
    times.between(second, times.mark(), found.append)
    times.read(wait=False)
    assert found == [1.0]
    assert cuda.log == []


def test_on_a_cpu_there_are_no_marks() -> None:
    from sgd.graph.runtime.observers.device_times import DeviceTimes

    times = DeviceTimes()
    assert times.mark() is None
    times.between(None, None, lambda _: pytest.fail("there is no time"))
    times.read()
