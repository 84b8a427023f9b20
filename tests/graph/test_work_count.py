"""The count of work: few calls are counted, and alike ones multiplied. Limits, and their file."""

from __future__ import annotations

import gc
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.machines import call, graph, plan_of
from sgd.graph.cli.commands.describe_machine import limit_facts
from sgd.graph.cli.run_table import ceiling, run_table
from sgd.graph.contract.errors import NodeError, UnreadableFile
from sgd.graph.contract.machine_limits import CallCount, MachineLimits, Work
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.runtime import limits_file
from sgd.graph.runtime.observers import work_count
from sgd.graph.runtime.observers.memory_samples import POINTS, Curve
from sgd.graph.runtime.observers.timeline import LIMIT, Entry, Timeline, fewer
from sgd.graph.runtime.observers.work_count import SHARE, TRIES, Counts, WorkCount, counts_of

NODE = call("n", "m.const", value=1)
LIMITS = MachineLimits("card", "2.0", 1, {"float32": 100.0, "bfloat16": 200.0}, 10.0, None, 50.0, "2026-11-27")


class Meter:
    """A meter whose calls have the work that the test says. `counted` lists the calls that were counted."""

    def __init__(self, work: Sequence[int]) -> None:
        self.work, self.calls, self.counted = work, -1, []  # type: ignore[var-annotated]
        self.taken = True

    def takes(self, call: Any, arguments: Mapping[str, Any]) -> bool:
        return self.taken

    def key(self, arguments: Mapping[str, Any]) -> Any:
        return tuple(arguments.items())

    def lasting(self, call: Any, arguments: Mapping[str, Any]) -> str | None:
        return arguments.get("name")

    def begin(self, seconds: float, parts: Mapping[str, Work]) -> None:
        self.counted.append(self.calls)

    def end(self) -> CallCount:
        return CallCount(Work({"float32": self.work[self.calls]}, 1))

    def kind(self, outputs: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Any:
        return tuple(e["computed"] for e in events)


def counted(work: Sequence[int], computed: Sequence[bool] = (), taken: bool = True) -> tuple[Work | None, list[int]]:
    meter = Meter(work)
    meter.taken = taken
    count = WorkCount([meter])
    for number in range(len(work)):
        meter.calls = number
        count.node_started(NODE, {})
        if computed:
            count.event(NODE, "decision", {"computed": computed[number]})
        count.node_finished(NODE, 0.1, {})
    return count.of("n"), meter.counted


def test_alike_calls_are_counted_once() -> None:
    assert counted([7] * 20) == (Work({"float32": 140}, 20), [0])


def test_a_call_of_another_kind_is_counted_when_its_kind_comes_again() -> None:
    skips = [True, True, True, False, True, False, False, True]
    done, calls = counted([7 if each else 2 for each in skips], skips)
    assert done == Work({"float32": 5 * 7 + 3 * 2}, 8)
    assert calls == [0, 4, 5]


def test_a_kind_that_never_comes_again_leaves_the_work_unknown() -> None:
    skips = [True, False] + [True] * 20
    done, calls = counted([7 if each else 2 for each in skips], skips)
    assert done is None
    assert calls == [0, *range(2, 2 + TRIES)]


def run_again(counts: Counts, work: Sequence[int], kinds: Sequence[bool], argument: int = 0) -> tuple[Any, list[int]]:
    """Count calls in a run that shares counts with others; `argument` stands for the shapes of the arguments."""
    meter = Meter(work)
    count = WorkCount([meter])
    count.counts = counts
    for number, kind in enumerate(kinds):
        meter.calls = number
        count.node_started(NODE, {"a": argument})
        count.event(NODE, "decision", {"computed": kind})
        count.node_finished(NODE, 0.1, {})
    return count.of("n"), meter.counted


def test_a_second_run_of_a_plan_counts_only_what_is_new() -> None:
    counts, kinds = Counts(), [True, False, False, True]
    expected = Work({"float32": 2 * 7 + 2 * 2}, 4)
    assert run_again(counts, [7, 2, 2, 7], kinds) == (expected, [0, 2])
    assert run_again(counts, [7, 2, 2, 7], kinds) == (expected, [])
    assert run_again(counts, [7, 7, 2], [True, True, False]) == (Work({"float32": 16}, 3), [])
    assert run_again(counts, [9], [True], argument=1) == (Work({"float32": 9}, 1), [0])  # other shapes
    assert run_again(counts, [0, 0], [True, True], argument=2) == (Work({"float32": 0}, 2), [0])
    assert run_again(counts, [0, 0], [True, True], argument=2) == (Work({"float32": 0}, 2), [])


def test_counts_are_remembered_by_name_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(work: Sequence[int], kinds: Sequence[bool], name: str | None) -> tuple[Any, list[int]]:
        meter = Meter(work)
        count = WorkCount([meter])  # with new `Counts`, as in a new process
        for number, kind in enumerate(kinds):
            meter.calls = number
            count.node_started(NODE, {"name": name})
            count.event(NODE, "decision", {"computed": kind})
            count.node_finished(NODE, 0.1, {})
        count.run_finished("done", None)
        return count.of("n"), meter.counted

    kinds, expected = [True, False, False, True], Work({"float32": 18}, 4)
    assert run([7, 2, 2, 7], kinds, "a") == (expected, [0, 2])
    assert run([7, 2, 2, 7], kinds, "a") == (expected, [])
    assert run([7, 2, 2, 7], kinds, "b") == (expected, [0, 2])
    assert run([7, 2, 2, 7], kinds, None) == (expected, [0, 2])
    assert run([0, 0], [True, True], "plain") == (Work({"float32": 0}, 2), [0])
    assert run([0, 0], [True, False], "plain") == (Work({"float32": 0}, 2), [])
    for damage in (b"no database", b""):
        (tmp_path / "sgd" / "work.sqlite").write_bytes(damage)
        assert run([7], [True], "a") == (Work({"float32": 7}, 1), [0])
    assert run([7], [True], "a") == (Work({"float32": 7}, 1), [])


def test_counts_belong_to_a_plan_and_its_options_and_end_with_it() -> None:
    plan = plan_of(graph(NODE, out="$n"))
    key = id(plan), repr([("a", 1)])
    assert counts_of(plan, {"a": 1}) is counts_of(plan, {"a": 1})
    assert counts_of(plan, {"a": 1}) is not counts_of(plan, {"a": 2})
    assert counts_of(plan, {}) is not counts_of(plan_of(graph(NODE, out="$n")), {})
    assert key in work_count._COUNTS
    del plan
    gc.collect()
    assert key not in work_count._COUNTS


class Dear(Meter):
    """A meter with a known cost: a count takes 3 ms, and 1 ms once its parts are known. It gives up at the limit."""

    begun: list[tuple[float, int]]

    def begin(self, seconds: float, parts: Mapping[str, Work]) -> None:
        self.begun = [*getattr(self, "begun", []), (seconds, len(parts))]

    def end(self) -> CallCount:
        allowed, parts = self.begun[-1]
        cost = 0.003 - 0.001 * parts
        if cost > allowed:
            return CallCount(None, allowed, {str(number): Work() for number in range(min(parts + 1, 2))})
        return CallCount(Work({"float32": 7}, 1), cost)


def dear_run(calls: Sequence[float]) -> tuple[WorkCount, Dear]:
    """Calls of a node with a dear meter; each begins at a time of the run."""
    meter, now = Dear([7] * len(calls)), [0.0]
    count = WorkCount([meter], lambda: now[0])
    for now[0] in calls:
        count.node_started(NODE, {"name": "dear"})
        count.node_finished(NODE, 0.1, {})
    count.run_finished("done", None)
    return count, meter


def test_counting_takes_a_small_part_of_the_run_and_a_later_call_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_count, "thread_time", lambda: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = [0.1 * number for number in range(1, 40)]
    count, meter = dear_run(times)
    assert count.of("n") == Work({"float32": 7 * len(times)}, len(times))
    assert not count.put_off("n")
    assert 1 < len(meter.begun) < 4
    assert count.spent <= SHARE * times[-1]


def test_a_count_that_was_given_up_is_unknown_and_a_later_run_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_count, "thread_time", lambda: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = []
    for _ in range(4):
        count, meter = dear_run([0.1])
        found.append((count.of("n"), count.put_off("n"), getattr(meter, "begun", [])))
    assert found[0] == (None, True, [(0.001, 0)])
    assert found[1] == (None, True, [(0.001, 1)])
    assert found[2] == (Work({"float32": 7}, 1), False, [(0.001, 2)])
    assert found[3] == (Work({"float32": 7}, 1), False, [])
    row = {"name": "n", "type": "m.const", "calls": 1, "seconds": 1.0, "device_seconds": None, "share": 1.0}
    row |= {"peak_bytes": None, "detail": {}, "outputs": [], "uncounted": True}
    record = {"nodes": [row], "phases": {}, "status": "done", "seconds": 1.0, "peak_bytes": None}
    assert "work of n: not counted yet" in run_table(record)


def test_calls_without_products_are_looked_at_once() -> None:
    assert counted([0] * 9, [True, False] * 4 + [True]) == (Work({"float32": 0}, 9), [0])


def test_what_no_meter_takes_or_what_failed_is_unknown() -> None:
    assert counted([7] * 3, taken=False) == (None, [])
    count = WorkCount([Meter([7])])
    count.node_started(NODE, {})
    count.node_failed(NODE, ValueError())
    assert count.of("n") is None
    assert count.of("other") is None


@pytest.mark.parametrize(
    ("work", "seconds", "expected"),
    [
        (Work({"float32": 61}, 1), 1.0, ("matrix", "float32", 0.61)),
        (Work({"float32": 10, "bfloat16": 100}, 1), 1.0, ("matrix", "bfloat16", 0.6)),
        (Work({"float32": 10}, 8), 1.0, ("copy", None, 0.8)),
        (Work({"float32": 10}, 20), 1.0, ("matrix", "float32", 0.1)),  # the bytes stayed in caches
        (Work({}, 20), 1.0, None),
        (Work({"int8": 10}, 0), 1.0, None),
        (None, 1.0, None),
        (Work({"float32": 61}), None, None),
        (Work({"float32": 61}), 0.0, None),
    ],
)
def test_the_ceiling_is_the_limit_that_the_work_meets_first(work: Any, seconds: Any, expected: Any) -> None:
    found = LIMITS.ceiling(work, seconds)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found["kind"], found["dtype"]) == expected[:2]
        assert found["fraction"] == pytest.approx(expected[2])


def test_a_load_that_is_faster_than_the_disk_has_no_ceiling() -> None:
    assert LIMITS.disk_ceiling(25, 1.0) == {"kind": "disk", "dtype": None, "fraction": 0.5}
    assert LIMITS.disk_ceiling(100, 1.0) is None
    assert LIMITS.disk_ceiling(0, 1.0) is None
    assert replace(LIMITS, disk=None).disk_ceiling(25, 1.0) is None


class Measures(NodeLibrary):
    def limits_key(self, device: str) -> str:
        return f"A card/../{device} 2.0"

    def measure_limits(self, device: str) -> MachineLimits:
        return LIMITS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sgd" / "limits"


def test_limits_come_back_as_they_were_measured_and_only_their_user_can_read_them(cache: Path) -> None:
    libraries = [NodeLibrary(), Measures()]
    assert limits_file.stored("cpu", libraries) is None
    assert limits_file.measure("cpu", libraries)[0] == LIMITS
    assert limits_file.stored("cpu", libraries) == LIMITS
    assert limits_file.stored("cuda", libraries) is None
    (file,) = cache.iterdir()
    assert file.name == "A-card-..-cpu-2.0.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps(asdict(LIMITS) | {"copy": 0}),
        json.dumps(asdict(LIMITS) | {"copy": "fast"}),
        json.dumps(asdict(LIMITS) | {"matrix": [1]}),
        json.dumps(asdict(LIMITS) | {"matrix": {"float32": -1}}),
        json.dumps(asdict(LIMITS) | {"more": 1}),
    ],
)
def test_a_damaged_file_is_an_error_of_doctor_and_nothing_to_a_run(cache: Path, text: str) -> None:
    cache.mkdir(parents=True)
    limits_file.path_of("A card/../cpu 2.0").write_text(text)
    with pytest.raises(UnreadableFile):
        limits_file.stored("cpu", [Measures()])
    assert limits_file.stored_or_none("cpu", [Measures()]) is None
    limits_file.measure("cpu", [Measures()])
    assert limits_file.stored("cpu", [Measures()]) == LIMITS


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs /proc")
def test_a_cache_that_cannot_be_written_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    with pytest.raises(NodeError, match="cannot be written"):
        limits_file.measure("cpu", [Measures()])
    with pytest.raises(NodeError, match="no installed node library can measure"):
        limits_file.measure("cpu", [NodeLibrary()])


def test_a_long_timeline_keeps_its_time_and_its_calls() -> None:
    timeline = Timeline()
    for number in range(4 * LIMIT):
        timeline.add(Entry("ab"[number % 2], "node", float(number), 0.5, step=number)).add_device(0.25)
    timeline.add(Entry("a", "turn", 0.0, 9.0))
    rows = timeline.rows()
    assert len(rows) <= LIMIT
    nodes = [row for row in rows if row["kind"] == "node"]
    assert sum(row["seconds"] for row in nodes) == 0.5 * 4 * LIMIT
    assert sum(row["device_seconds"] for row in nodes) == 0.25 * 4 * LIMIT
    assert sum(row.get("calls", 1) for row in nodes) == 4 * LIMIT
    assert [row["start"] for row in rows] == sorted(row["start"] for row in rows)
    assert [row["seconds"] for row in rows if row["kind"] == "turn"] == [9.0]
    assert timeline.rows() == rows  # a record may be made twice


def test_too_many_names_leave_the_longest() -> None:
    kept = fewer([Entry(f"n{number}", "node", 0.0, float(number)) for number in range(10)], limit=4)
    assert [entry.name for entry in kept] == ["n6", "n7", "n8", "n9"]


def test_a_long_curve_keeps_its_highest_point() -> None:
    curve = Curve()
    for number in range(10 * POINTS):
        curve.add(float(number), 9999 if number == 4321 else number % 7)
    rows = curve.rows(started=-1.0)
    assert len(rows) <= POINTS
    assert {"seconds": 4322.0, "bytes": 9999} in rows


def test_doctor_shows_the_limits_with_their_units() -> None:
    shown = limit_facts(replace(LIMITS, matrix={"bfloat16": 9.5e14}, copy=3e12, threads=None))
    assert shown["bfloat16 products"] == "950 TFLOP/s"
    assert shown["copy in memory"] == "3.00 TB/s read and written"
    assert shown["measured"] == "2026-11-27, card, torch 2.0"
    assert limit_facts(None) == {"not known": limits_file.ADVICE}
    assert "--measure" in limit_facts(None, "x.json is damaged")["not known"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "-"),
        ({"kind": "matrix", "dtype": "bfloat16", "fraction": 0.61}, "61% of bfloat16 rate"),
        ({"kind": "copy", "dtype": None, "fraction": 0.004}, "<1% of memory rate"),
        ({"kind": "disk", "dtype": None, "fraction": 0.5}, "50% of disk rate"),
    ],
)
def test_a_ceiling_says_how_near(given: Any, text: str) -> None:
    assert ceiling(given) == text
