"""Traces: a file in the Trace Event Format, whatever the end of the run."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, graph, loop, plan_of
from helpers.perfetto_queries import answers
from sgd.graph.cli.profile_table import kernel_table
from sgd.graph.compiler.ir import Graph, Ref, Var
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import CallInfo, Observer
from sgd.graph.contract.node import Run, node
from sgd.graph.runtime.observers.kernel_profile import KernelRow
from sgd.graph.runtime.observers.trace_file import GrowingFile
from sgd.graph.runtime.profiling import Profiling, Watch
from sgd.graph.runtime.record import Clock
from sgd.graph.runtime.run import run


@node("m.slow")
def slow(a: Cell, run: Run) -> Cell:
    """Takes 20 ms, in two parts, and reports an event."""
    for part in ("one", "two"):
        with run.range("part", part):
            time.sleep(0.01)
    run.event("weighing", scale="kitchen", heavy=False, grams=float("nan"))
    return Cell(a.value)


machines.TYPES["m.slow"] = slow.node


def small(turns: int = 3, at: int = -1) -> Graph:
    body = graph(call("l.s", "m.slow", a=Var("l", "n")), call("l.f", "m.fail", a="$l.s", at=at), c=machines.arg("$l.f"))
    return graph(call("ns", "m.cells", count=turns), loop("l", {"n": machines.arg("$ns")}, body), out="$l:c")


def traced(given: Graph, folder: Path, **options: Any) -> dict[str, Any]:
    file = folder / "trace.json"
    run(plan_of(given), out=folder / "out", profile=Profiling(trace=file, **options))
    assert sorted(path.name for path in folder.iterdir()) == ["out", "trace.json"]  # no temporary file stays
    return check(json.loads(file.read_text(encoding="utf-8")))


def check(trace: dict[str, Any]) -> dict[str, Any]:
    """Check a trace against the Trace Event Format: required keys, and spans of a lane that nest or follow."""
    lanes: dict[tuple[int, int], list[tuple[float, float, str]]] = defaultdict(list)
    named = set()
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            named.add((event["pid"], event.get("tid")))
            continue
        assert event["ts"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
            continue
        assert isinstance(event["tid"], int)
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
        else:
            assert event["ph"] == "X"
            assert event["dur"] >= 0
            lanes[event["pid"], event["tid"]].append((event["ts"], -event["dur"], event["name"]))
    assert set(lanes) <= named
    for spans in lanes.values():
        around: list[float] = []
        for start, negative, name in sorted(spans):
            while around and around[-1] <= start:
                around.pop()
            assert not around or start - negative <= around[-1] + 0.01, f"{name} overlaps"
            around.append(start - negative)
    return trace


def spans(trace: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event.get("cat") == kind]


def test_nodes_steps_parts_and_events_have_lanes(tmp_path: Path) -> None:
    trace = traced(small(), tmp_path)
    assert [span["name"] for span in spans(trace, "node")] == ["ns · m.cells", *["l.s · m.slow", "l.f · m.fail"] * 3]
    assert [span["name"] for span in spans(trace, "turn")] == ["l 0", "l 1", "l 2"]
    assert [span["name"] for span in spans(trace, "part")] == ["part one", "part two"] * 3
    assert [event["args"] for event in spans(trace, "weighing")] == [
        {"node": "l.s", "scale": "kitchen", "heavy": False, "grams": "nan"}
    ] * 3
    assert {event["name"] for event in spans(trace, "weighing")} == {"kitchen · not heavy"}
    for outer, inner in (("turn", "node"), ("node", "part")):
        around = [s for s in spans(trace, outer) if not s["name"].startswith("ns")]
        for span in spans(trace, inner):
            if span["name"].startswith("ns"):
                continue
            assert any(s["ts"] <= span["ts"] and span["ts"] + span["dur"] <= s["ts"] + s["dur"] for s in around)
    assert all(20_000 <= span["dur"] < 1e6 for span in spans(trace, "node") if span["name"].startswith("l.s"))
    lanes = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert lanes == {"nodes", "steps", "loading", "weighing"}
    assert any(event["ph"] == "C" and event["args"]["bytes"] > 1e6 for event in trace["traceEvents"])
    assert trace["otherData"] == {"status": "done"}


def test_perfetto_reads_the_trace(tmp_path: Path) -> None:
    trace = traced(small(), tmp_path)
    found = answers(
        tmp_path / "trace.json",
        tmp_path,
        "select name, value from stats where severity in ('error', 'data_loss') and value > 0",
        "select thread.name, slice.depth, slice.name from slice join thread_track on slice.track_id = thread_track.id "
        "join thread using (utid) where slice.category not in ('phase') order by slice.ts, slice.depth",
        "select distinct process.name from process where pid is not null and process.name is not null",
        "select count(*), min(counter.value) > 1e6 from counter",
        "select slice.name, extract_arg(arg_set_id, 'args.scale') from slice where category = 'weighing' limit 1",
        "select min(dur), max(dur) from slice where name like 'l.s%'",
    )
    assert found[0] == []
    turns = [row for row in found[1] if row[0] == "steps"]
    assert turns == [("steps", 0, "l 0"), ("steps", 0, "l 1"), ("steps", 0, "l 2")]
    nodes = [row[1:] for row in found[1] if row[0] == "nodes"]
    each = [(0, "l.s · m.slow"), (1, "part one"), (1, "part two"), (0, "l.f · m.fail")]
    assert nodes == [(0, "ns · m.cells"), *each * 3]
    assert found[2] == [("sgd test",)]
    assert found[3][0][0] >= 1
    assert found[3][0][1] == 1
    assert found[4] == [("kitchen · not heavy", "kitchen")]
    durations = [round(span["dur"] * 1e3) for span in spans(trace, "node") if span["name"].startswith("l.s")]
    assert found[5] == [(pytest.approx(min(durations), abs=2), pytest.approx(max(durations), abs=2))]


def test_time_0_is_the_start_of_the_run(tmp_path: Path) -> None:
    began = time.time() - 5
    plan = plan_of(small(1))
    run(plan, out=tmp_path / "out", clock=Clock(began), profile=Profiling(trace=tmp_path / "t"))
    trace = check(json.loads((tmp_path / "t").read_text()))
    (before,) = spans(trace, "phase")
    assert before["ts"] == 0
    assert before["dur"] >= 5e6
    assert all(span["ts"] >= 5e6 for span in spans(trace, "node"))


def test_components_have_a_lane(tmp_path: Path) -> None:
    given = graph(call("m", "m.machine"), call("e", "m.encode", machine="$m:machine"), out="$e")
    trace = traced(given, tmp_path)
    assert [event["name"] for event in spans(trace, "load")] == ["m · encoder", "m · encoder released"]


def test_a_run_that_fails_leaves_its_trace(tmp_path: Path) -> None:
    trace = traced(small(at=1), tmp_path)
    assert trace["otherData"] == {"status": "failed"}
    assert spans(trace, "node")[-1]["args"] == {"failed": "RuntimeError"}
    (open_turn,) = spans(trace, "unfinished")
    assert (open_turn["name"], open_turn["args"]["unfinished"]) == ("l 1", True)


def test_an_interrupted_run_leaves_its_trace(tmp_path: Path) -> None:
    import _thread

    class Interrupts(Observer):
        def turn_started(self, loop: Any, index: int, variables: Any) -> None:
            if index == 1:
                _thread.interrupt_main()
                time.sleep(0.1)

    file = tmp_path / "trace.json"
    done = run(plan_of(small(200)), out=tmp_path / "out", observers=[Interrupts()], profile=Profiling(trace=file))
    assert done.status == "interrupted"
    assert check(json.loads(file.read_text()))["otherData"] == {"status": "interrupted"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trace.json"]


def test_hostile_names_are_data(tmp_path: Path) -> None:
    class Warns(Observer):
        def node_started(self, call: CallInfo, arguments: Any) -> None:
            raise RuntimeError('\x1b[2J "]}\n\ud800 </script>')

    file = tmp_path / "trace.json"
    run(plan_of(small(1)), out=tmp_path / "out", observers=[Warns()], profile=Profiling(trace=file))
    trace = check(json.loads(file.read_text(encoding="utf-8")))
    assert any('\x1b[2J "]}\n' in event["name"] for event in trace["traceEvents"])


def test_a_file_that_exists_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.json").write_text("mine")
    with pytest.raises(NodeError, match=r"t\.json exists"):
        run(plan_of(small(1)), out="out", profile=Profiling(trace="t.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]  # nothing ran
    run(plan_of(small(1)), out="out", overwrite=True, profile=Profiling(trace="t.json"))
    assert json.loads(Path("t.json").read_text())["otherData"] == {"status": "done"}


@pytest.mark.parametrize("name", ["", ".", "missing/t.json", "t\0.json", "x" * 300])
def test_a_file_that_cannot_be_written_is_an_error_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("trace", "trace_values"):
        with pytest.raises(NodeError, match="--trace"):
            run(plan_of(small(1)), out="out", profile=Profiling(**{option: name}))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_if_the_run_cannot_begin(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(NodeError, match="exists"):
        run(plan_of(small(1)), out=tmp_path / "out", profile=Profiling(trace=tmp_path / "t.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_ends_the_trace_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingFile, "complete", full)
    done = run(plan_of(small(1)), out=tmp_path / "out", profile=Profiling(trace=tmp_path / "t.json"))
    assert done.status == "done"
    assert any("t.json cannot be written: No space left" in text for text in done.record["warnings"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_threads_add_whole_events(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "t", False, "--trace")
    each = [threading.Thread(target=lambda n=n: [file.add(f"{n}" * 1000 + "\n") for _ in range(200)]) for n in range(4)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    file.complete()
    file.add("late")
    lines = (tmp_path / "t").read_text().splitlines()
    assert len(lines) == 800
    assert all(len(set(line)) == 1 for line in lines)


def test_each_rank_is_a_process_of_one_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    began, said = time.time(), list[str]()
    clocks = [Clock(began - 5), Clock(began - 3)]
    watches = [
        Watch(plan_of(small(1)), Profiling(trace=file), "cpu", False, clock, rank) for rank, clock in enumerate(clocks)
    ]
    assert watches[1].trace is not None
    watches[1].trace.count_from(began - 5)
    held = plan_of(small(1))
    for watch in watches:
        observer = watch.observers([], [])
        observer.run_started(held, Run())
        observer.node_started(next(held.calls()), {})
        observer.node_finished(next(held.calls()), 0.1, {})
        observer.part_prefetched(Ref("m", "machine"), "engine", time.perf_counter() - 1, time.perf_counter())
        observer.warned(None, "\ud800 is no text")
        observer.run_finished("done", None)
    assert not file.exists()
    text = watches[1].notes()["trace"]()
    text.encode()  # it can be sent
    watches[0].hear(lambda name: {1: text, 2: None}, said.append)
    assert said == ["the trace of rank 2 is not known"]
    trace = check(json.loads(file.read_text(encoding="utf-8")))
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert list(names.values()) == ["sgd test of rank 0", "sgd test of rank 1"]
    before = {span["pid"]: span for span in spans(trace, "phase")}
    starts = [before[process]["ts"] / 1e6 for process in names]
    assert starts == [0, pytest.approx(2, abs=0.01)], "both count from the start of rank 0"
    ends = [(before[process]["ts"] + before[process]["dur"]) / 1e6 for process in names]
    assert all(5 <= end < 8 for end in ends)
    assert [span["dur"] for span in spans(trace, "prefetch")] == [pytest.approx(1e6, rel=0.01)] * 2
    assert trace["otherData"] == {"status": "done"}
    (found,) = answers(file, tmp_path, "select distinct name from process where name like 'sgd%' order by name")
    assert found == [("sgd test of rank 0",), ("sgd test of rank 1",)]


def test_kernels_of_other_ranks_are_listed_with_their_rank() -> None:
    plan = plan_of(small(1))
    watches = [Watch(plan, Profiling("torch"), "cpu", False, Clock(), rank) for rank in (0, 1)]
    for number, watch in enumerate(watches, 1):
        assert watch.kernels is not None
        watch.kernels.rows["l.s", "aten::mm"] = KernelRow(number, None, float(number))
    told = watches[1].notes()["kernels"]()
    watches[0].hear(lambda name: {1: told}, pytest.fail)
    record: dict[str, Any] = {"options": {}, "seconds": 1.0, "phases": {}, "nodes": []}
    assert [(row["rank"], row["calls"]) for row in watches[0].complete(record)["kernels"]] == [(1, 2), (0, 1)]
    assert "rank" in kernel_table(record).splitlines()[0].split()


def test_files_are_checked_before_processes_are_started(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    Profiling(trace=file).require_startable(plan_of(small(1)), "cpu", False)
    assert list(tmp_path.iterdir()) == []
    file.write_text("mine")
    with pytest.raises(NodeError, match="exists"):
        Profiling(trace=file).require_startable(plan_of(small(1)), "cpu", False)
    with pytest.raises(NodeError, match="chooses no node"):
        Profiling("torch", nodes="other").require_startable(plan_of(small(1)), "cpu", False)
