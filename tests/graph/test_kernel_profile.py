"""`--profile torch`: operators of a CPU under the node that called them; torch's own sums are the oracle."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from sgd.graph.contract.node import Run
from sgd.graph.runtime.observers import kernel_profile
from sgd.graph.runtime.observers.chosen_calls import ChosenCalls, Steps
from sgd.graph.runtime.observers.kernel_events import OTHER, Kernel, Marker, kernels_of
from sgd.graph.runtime.observers.kernel_profile import KernelProfile
from torch.autograd.profiler import profile, record_function

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text())["properties"]["kernels"]


def work(times: int = 3) -> torch.Tensor:
    """`times` products and softmaxes."""
    made = torch.ones(16, 16)
    for _ in range(times):
        made = (made @ made).softmax(-1)
    return made


class Driver:
    """Sends the events of a run to a profile, as the executor does."""

    def __init__(self, pattern: str = "*", steps: str | None = None) -> None:
        self.said: list[str] = []
        self.lanes: list[tuple[list[Kernel], int]] = []
        chosen = ChosenCalls(pattern, Steps.of(steps) if steps is not None else None)
        self.profile = KernelProfile(chosen, self.said.append, lambda *lane: self.lanes.append(lane))  # type: ignore[arg-type]

    @contextmanager
    def running(self, status: str = "done") -> Iterator[None]:
        self.profile.prepare()
        with self.profile.around_steps():
            self.profile.run_started(SimpleNamespace(name="w"), Run())
            yield
        self.profile.run_finished(status, None)

    def call(self, id: str, function: Callable[[], Any] = work) -> None:
        call: Any = SimpleNamespace(id=id, names=(id,))
        self.profile.first.node_started(call, {})
        function()
        self.profile.node_finished(call, 0.0, {})

    def loop(self, turns: int, *ids: str) -> None:
        loop = SimpleNamespace(id="l")
        self.profile.loop_started(loop, turns)
        for turn in range(turns):
            self.profile.turn_started(loop, turn, {})
            for id in ids:
                self.call(id)
        self.profile.loop_finished(loop)

    def calls(self, name: str = "aten::mm") -> dict[str, int]:
        return {node: row.calls for (node, kernel), row in self.profile.rows.items() if kernel == name}


def test_operators_stand_under_their_node() -> None:
    driver = Driver()
    with driver.running():
        driver.call("a", lambda: work(2))
        work(100)
        driver.call("b", lambda: work(5))
        driver.call("a", lambda: work(1))
    assert driver.calls() == {"a": 3, "b": 5, OTHER: 100}
    assert driver.profile.windows == 1
    rows = driver.profile.listed()
    Draft202012Validator(SCHEMA).validate(rows)
    assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)
    assert all(row["device_seconds"] is None for row in rows)
    assert driver.said == []
    assert driver.profile.seconds > 0


def test_own_times_are_those_of_torch() -> None:
    with profile(use_cpu=True, use_kineto=True) as made:
        for number in range(2):
            with record_function(f"{Marker.PREFIX}{number}"):
                work(20)
                torch.nn.functional.layer_norm(torch.ones(4, 4), (4,))
    markers = [Marker("one", f"{Marker.PREFIX}0", 0), Marker("two", f"{Marker.PREFIX}1", 0)]
    found, _ = kernels_of(made.kineto_results.events(), markers)
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for kernel in found:
        seconds[kernel.name] += kernel.own_ns / 1e3
        calls[kernel.name] += 1
    expected = {row.key: row for row in made.key_averages() if not row.key.startswith(Marker.PREFIX)}
    assert calls == {name: row.count for name, row in expected.items()}
    for name, row in expected.items():
        assert seconds[name] == pytest.approx(row.self_cpu_time_total, abs=0.01 * row.count)
    halves = Counter(kernel.node for kernel in found)
    assert halves["one"] == halves["two"] == len(found) / 2


def test_steps_and_nodes_choose_windows() -> None:
    driver = Driver("l.*", "1:3")
    with driver.running():
        driver.call("before")
        driver.loop(5, "l.a", "l.b")
        driver.call("after")
    assert driver.calls() == {"l.a": 6, "l.b": 6}
    assert driver.profile.windows == 1  # steps 1 and 2 follow each other
    driver = Driver("l.a", "0:5:2")
    with driver.running():
        driver.loop(5, "l.a", "l.b")
    assert driver.calls() == {"l.a": 9}
    assert driver.profile.windows == 3


def test_long_runs_are_cut_into_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_profile, "LONGEST", 0.0)
    driver = Driver()
    with driver.running():
        driver.loop(4, "l.a")
    assert driver.profile.windows == 4
    assert driver.calls() == {"l.a": 12}
    starts = [kernel.start_ns - offset for found, offset in driver.lanes for kernel in found]
    assert starts == sorted(starts)


def test_lanes_are_in_the_clock_of_the_run() -> None:
    from time import perf_counter_ns

    driver, times = Driver(), []

    def noted() -> None:
        times.append(perf_counter_ns())
        work(50)
        times.append(perf_counter_ns())

    with driver.running():
        driver.call("a", noted)
    ((found, offset),) = driver.lanes
    first, last = found[0].start_ns - offset, max(kernel.start_ns + kernel.ns for kernel in found) - offset
    assert times[0] - 1e6 <= first <= times[1]
    assert times[0] <= last <= times[1] + 1e6


def test_an_error_in_a_node_keeps_what_was_measured() -> None:
    driver = Driver()
    with pytest.raises(ZeroDivisionError), driver.running():  # noqa: PT012
        driver.call("a")
        call: Any = SimpleNamespace(id="b", names=("b",))
        driver.profile.first.node_started(call, {})
        work()
        driver.profile.node_failed(call, ZeroDivisionError())
        raise ZeroDivisionError
    assert driver.calls() == {"a": 3, "b": 3}
    with profile(use_cpu=True, use_kineto=True):  # it is stopped: another can start
        work()


def test_an_interrupt_in_a_node_stops_the_profiler() -> None:
    driver = Driver()
    with pytest.raises(KeyboardInterrupt), driver.running():  # noqa: PT012
        call: Any = SimpleNamespace(id="a", names=("a",))
        driver.profile.first.node_started(call, {})
        work()
        raise KeyboardInterrupt
    assert driver.calls() == {"a": 3}
    again = Driver()
    with again.running():
        again.call("a")
    assert again.calls() == {"a": 3}


def test_a_run_that_ends_inside_a_node_says_so() -> None:
    driver = Driver()
    entered, leave = threading.Event(), threading.Event()

    def stuck() -> None:
        with driver.profile.around_steps():
            driver.profile.run_started(SimpleNamespace(name="w"), Run())
            call: Any = SimpleNamespace(id="a", names=("a",))
            driver.profile.first.node_started(call, {})
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stuck)
    thread.start()
    entered.wait()
    driver.profile.run_finished("interrupted", None)
    assert driver.said == ["the run ended before the kernels of the last window were added up: they are left out"]
    assert driver.profile.listed() == []
    leave.set()
    thread.join()
    with profile(use_cpu=True, use_kineto=True):
        work()


def test_a_second_run_in_the_process_is_told() -> None:
    one, other = Driver(), Driver()
    with one.running():
        one.call("a")
        with other.running():
            other.call("b")
        one.call("a")
    assert other.said == ["another run of this process is profiled: no kernels are measured in this one"]
    assert other.profile.listed() == []
    assert one.calls()["a"] == 6


def test_other_threads_do_not_count() -> None:
    driver = Driver()
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        with driver.running():
            driver.call("a", lambda: work(7))
    finally:
        stop.set()
        thread.join()
    assert driver.calls() == {"a": 7}


def test_a_profiler_around_the_run_is_told_of() -> None:
    driver = Driver()
    with profile(use_cpu=True, use_kineto=True) as outer, driver.running():
        driver.call("a")
        driver.call("b")
    assert next(row.count for row in outer.key_averages() if row.key == "aten::mm") == 6  # it went on
    (said,) = driver.said
    assert said.startswith("the PyTorch Profiler cannot start")
    assert driver.profile.listed() == []
    again = Driver()
    with again.running():
        again.call("a")
    assert again.calls() == {"a": 3}


def test_nothing_chosen_is_told() -> None:
    driver = Driver(steps="7")
    with driver.running():
        driver.loop(3, "l.a")
    assert driver.said == [
        "no kernels were measured: no call that ran is chosen by --profile-nodes and --profile-steps"
    ]


class Event(SimpleNamespace):
    """An event of Kineto, as on a GPU."""

    def __init__(
        self, kind: str, name: str, start: int, ns: int, lane: int = 1, correlation: int = 0, linked: int = 0
    ) -> None:
        values = {
            "activity_type": kind, "name": name, "start_ns": start, "duration_ns": ns, "device_resource_id": lane,
            "correlation_id": correlation, "linked_correlation_id": linked, "is_async": False,
        }  # fmt: skip
        super().__init__(**{key: lambda value=value: value for key, value in values.items()})


def test_kernels_belong_to_the_call_that_launched_them() -> None:
    """A kernel runs long after its launch, on a GPU; the launch decides, and only in the thread of the node."""
    events = [
        Event("user_annotation", f"{Marker.PREFIX}0", 100, 50),
        Event("user_annotation", f"{Marker.PREFIX}1", 200, 50),
        Event("gpu_user_annotation", f"{Marker.PREFIX}0", 900, 50, lane=7),
        Event("cpu_op", "aten::mm", 105, 20, correlation=5),
        Event("cuda_runtime", "cudaLaunchKernel", 110, 5, correlation=1),
        Event("cuda_driver", "cuLaunchKernel", 210, 6, correlation=2),
        Event("cuda_runtime", "cudaMemcpyAsync", 220, 7, lane=2, correlation=3),
        Event("cuda_runtime", "cudaLaunchKernel", 170, 8, correlation=4),
        Event("kernel", "mm", 1000, 400, lane=7, correlation=1),
        Event("kernel", "softmax", 1400, 300, lane=7, correlation=2),
        Event("gpu_memcpy", "Memcpy HtoD", 1000, 200, lane=9, correlation=3),
        Event("gpu_memset", "Memset", 1000, 100, lane=9, correlation=4),
        Event("kernel", "earlier", 1, 10, lane=7, correlation=99, linked=98),
        Event("kernel", "of a graph", 1800, 30, lane=7, correlation=97, linked=5),
    ]
    found, offset = kernels_of(events, [Marker("a", f"{Marker.PREFIX}0", 40), Marker("b", f"{Marker.PREFIX}1", 141)])
    assert [(k.node, k.name, k.ns, k.own_ns, k.on_device, k.lane) for k in found] == [
        ("a", "mm", 400, 5, True, 7),
        ("b", "softmax", 300, 6, True, 7),
        (OTHER, "Memcpy HtoD", 200, 7, True, 9),
        (OTHER, "Memset", 100, 8, True, 9),
        (OTHER, "earlier", 10, 0, True, 7),
        ("a", "of a graph", 30, 0, True, 7),
    ]
    assert offset == 59


def test_without_common_names_of_threads_the_moment_decides() -> None:
    events = [
        Event("user_annotation", f"{Marker.PREFIX}0", 100, 50, lane=1),
        Event("cuda_runtime", "cudaLaunchKernel", 110, 5, lane=77, correlation=1),
        Event("cuda_runtime", "cudaLaunchKernel", 190, 5, lane=77, correlation=2),
        Event("kernel", "mm", 1000, 400, lane=7, correlation=1),
        Event("kernel", "mm", 1400, 400, lane=7, correlation=2),
    ]
    found, _ = kernels_of(events, [Marker("a", f"{Marker.PREFIX}0", 0)])
    assert [kernel.node for kernel in found] == ["a", OTHER]
