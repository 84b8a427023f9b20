"""`--overlap`: the tail of a turn in a second thread. Everything but times is as without it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, Machine, call, graph, loop, numbers_of, plan_of
from helpers.overlapped import COUNT, SHAPES, STORED, changed, failing, head, in_the_body, in_the_next_loop, two_pairs
from helpers.positions import Listener
from helpers.slow_nodes import CHAIN, NODES, started
from helpers.slow_nodes import Run as Started
from helpers.untimed_records import untimed
from jsonschema import Draft202012Validator
from sgd.graph.cli.main import main
from sgd.graph.compiler.ir import Graph, Items, Ref, Var
from sgd.graph.compiler.overlaps import overlaps_of
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import CallInfo, Observer, Observers
from sgd.graph.contract.node import Run
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.contract.second_stream import SecondStream
from sgd.graph.resume import snapshot_file
from sgd.graph.resume.position import FinishedEffect
from sgd.graph.resume.snapshot_content import snapshot_of
from sgd.graph.resume.snapshot_reading import resumed_at
from sgd.graph.runtime import stored_steps
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.failure import Interrupted, NodeFailed
from sgd.graph.runtime.overlap import possible
from sgd.graph.runtime.overlap.overlapped_steps import OverlappedSteps
from sgd.graph.runtime.profiling import Profiling
from sgd.graph.runtime.record import Recorder
from sgd.graph.runtime.run import run

__all__ = ["started"]
SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))


class Slow:
    """Makes node types slow, and notes when each call was at work, and in which thread.

    With `beside`, each tail but the last waits until the next head has begun.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> None:
        self.calls: list[tuple[str, float, float, str]] = []
        self.beside = False
        self.begun: Counter[str] = Counter()
        self.changed = threading.Condition()
        for name, wait in seconds.items():
            self._patch(monkeypatch, name, wait)

    def _patch(self, monkeypatch: pytest.MonkeyPatch, name: str, wait: float) -> None:
        original = machines.TYPES[name]

        def function(**arguments: Any) -> Any:
            began = time.perf_counter()
            with self.changed:
                turn = self.begun[name]
                self.begun[name] += 1
                self.changed.notify_all()
                if self.beside and name == "m.decode" and turn < COUNT - 1:  # a head paints twice
                    assert self.changed.wait_for(lambda: self.begun["m.paint"] > 2 * (turn + 1), 30)
            time.sleep(wait)
            made = original.function(**arguments)
            self.calls.append((name, began, time.perf_counter(), threading.current_thread().name))
            return made

        monkeypatch.setitem(machines.TYPES, name, replace(original, function=function))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch, {"m.paint": 0.03, "m.decode": 0.03, "m.save": 0.01})


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_files_and_the_record_are_as_without_it(shape: str, slow: Slow, tmp_path: Path) -> None:
    plan = plan_of(SHAPES[shape]())
    before = run(plan, out=tmp_path / "without")
    assert not any(thread == "sgd overlap" for *_, thread in slow.calls)
    slow.calls.clear()
    after = run(plan, out=tmp_path / "with", overlap=True)
    assert {name for name, _, _, thread in slow.calls if thread == "sgd overlap"} == {"m.decode", "m.save"}
    assert all(name == "m.paint" for name, _, _, thread in slow.calls if thread == "sgd")
    assert untimed(after.record) == untimed(before.record)
    assert numbers_of(after.outputs["all"]) == numbers_of(before.outputs["all"])
    files = {path.name: path.read_text() for path in (tmp_path / "without").glob("*.txt")}
    assert len(files) == COUNT
    assert {path.name: path.read_text() for path in (tmp_path / "with").glob("*.txt")} == files
    assert not [thread for thread in threading.enumerate() if thread.name == "sgd overlap"]


def test_two_pairs_of_loops_overlap_one_after_the_other(slow: Slow, tmp_path: Path) -> None:
    plan = plan_of(two_pairs())
    assert [each.loop.loop.id for each in overlaps_of(plan)[0]] == ["l", "y"]
    machines.LOG.clear()
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=True)
    assert untimed(after.record) == untimed(before.record)
    assert numbers_of(after.outputs["sum"]) == numbers_of(before.outputs["sum"])
    assert len(list((tmp_path / "with").glob("*.txt"))) == 2 * COUNT
    assert [event[2] for event in machines.LOG if event[0] == "acquire"] == ["painter", "decoder"] * 2
    assert abs(after.record["unaccounted_seconds"]) < 0.04


def test_a_loop_may_go_over_one_list_twice(tmp_path: Path) -> None:
    tail = [
        call("k.tail", "m.decode", machine="$box:machine", a=Var("k", "x")),
        call("k.both", "m.add", a="$k.tail", b=Var("k", "y")),
    ]
    plan = plan_of(
        graph(
            call("box", "m.machine"),
            call("cs", "m.cells", count=COUNT),
            loop("l", {"c": "$cs"}, graph(*head("l"), o="$l.d:s")),
            loop("k", {"x": "$l:o", "y": "$l:o"}, graph(*tail, o="$k.both")),
            all="$k:o",
        )
    )
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=True)
    assert after.status == "done", after.error
    assert numbers_of(after.outputs) == numbers_of(before.outputs)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tail_runs_beside_the_next_head_and_one_tail_is_left_at_most(shape: str, slow: Slow, tmp_path: Path) -> None:
    slow.beside = True
    result = run(plan_of(SHAPES[shape]()), out=tmp_path, overlap=True)
    record = result.record
    assert result.status == "done", result.error
    heads = [call for call in slow.calls if call[0] == "m.paint"]
    tails = [call for call in slow.calls if call[0] == "m.decode"]
    ends = [call for call in slow.calls if call[0] == "m.save"]
    for turn in range(COUNT - 1):
        assert tails[turn + 1][1] >= ends[turn][2]
        if turn + 2 < COUNT:
            assert heads[2 * turn + 4][1] >= ends[turn][2]
    rows = {row["name"]: row for row in record["nodes"]}
    tail = "l" if shape == "body" else "k"
    assert {name for name, row in rows.items() if row.get("overlapped")} >= {f"{tail}.tail", f"{tail}.save"}
    assert "overlapped" not in rows["l.d.heavy"]
    second = [(began, end) for _, began, end, thread in slow.calls if thread == "sgd overlap"]
    both = sum(max(min(end, e) - max(began, b), 0.0) for began, end in second for _, b, e, _ in heads)
    assert 0 < both - 0.02 < record["overlapped_seconds"] < sum(end - began for began, end in second) - 0.02
    top = sum(row["seconds"] for name, row in rows.items() if "." not in name)
    assert top - record["overlapped_seconds"] == pytest.approx(record["seconds"], abs=0.04)
    assert sum(record["phases"].values()) == pytest.approx(record["seconds"], abs=1e-6)
    assert 0 < record["phases"]["save"] < rows[f"{tail}.save"]["seconds"]
    SCHEMA.validate(record)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_of_a_tail_is_that_of_a_run_without(shape: str, slow: Slow, tmp_path: Path) -> None:
    plan = plan_of(failing(shape, 3 * 1 + 2, "tail"))  # the second turn: 1, three times, and painted twice
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=True)
    assert after.status == before.status == "failed"
    assert isinstance(after.error, NodeFailed)
    assert str(after.error) == str(before.error)
    assert after.record["error"] == before.record["error"]
    assert sorted(path.name for path in (tmp_path / "with").iterdir()) == ["out-0.txt", "run.json"]
    assert abs(after.record["unaccounted_seconds"]) < 0.04


def test_a_head_that_fails_lets_the_tail_before_it_finish(slow: Slow, tmp_path: Path) -> None:
    plan = plan_of(failing("body", 2, "head"))
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=True)
    assert str(after.error) == str(before.error)
    names = sorted(path.name for path in (tmp_path / "without").iterdir())
    assert (
        sorted(path.name for path in (tmp_path / "with").iterdir()) == names == ["out-0.txt", "out-1.txt", "run.json"]
    )
    rows = {row["name"]: row["calls"] for row in after.record["nodes"]}
    assert rows == {row["name"]: row["calls"] for row in before.record["nodes"]}


def overlapped(
    plan: Plan, out: Path, listener: Listener, start: Any = None, stop: threading.Event | None = None
) -> Any:
    """Run a plan with its overlaps, without a record."""
    observers = Observers([])
    executor = Executor(plan, Context(out, observers, overwrite=True), observers, stop, positions=listener, start=start)
    OverlappedSteps(overlaps_of(plan)[0], executor, Recorder(), None)
    return numbers_of(executor.execute())


@pytest.mark.parametrize("resumed_with", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_cut_at_any_place_goes_on_to_equal_outputs(
    shape: str, resumed_with: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, {"m.paint": 0.004, "m.decode": 0.004, "m.save": 0.002})
    plan = plan_of(SHAPES[shape]())
    listener = Listener()
    whole = overlapped(plan, tmp_path, listener)
    assert len(listener.kept) > COUNT
    for kept in listener.kept:
        snapshot_file.write(
            snapshot_of(kept, plan, [], tmp_path, {"choices": {}, "used": []}), tmp_path / "s.safetensors"
        )
        start = resumed_at(snapshot_file.read(tmp_path / "s.safetensors"), plan).start(plan, [], tmp_path)
        slow.calls.clear()
        if resumed_with:
            found = overlapped(plan, tmp_path, Listener(), start)
        else:
            observers = Observers([])
            context = Context(tmp_path, observers, overwrite=True)
            found = numbers_of(Executor(plan, context, observers, start=start).execute())
        assert found == whole
        done = kept.position.levels[0].turn if kept.position.levels else 0
        saved = sum(name == "m.save" for name, *_ in slow.calls)
        if shape == "body":  # only the results of tails that had finished count as turns
            assert saved <= COUNT - done


def test_an_interrupt_ends_both_threads_and_keeps_finished_files(slow: Slow, tmp_path: Path) -> None:
    stop = threading.Event()

    class Stops(Listener):
        def effect_finished(self, effect: FinishedEffect) -> None:
            super().effect_finished(effect)
            stop.set()

    listener = Stops()
    with pytest.raises(Interrupted):
        overlapped(plan_of(in_the_body()), tmp_path, listener, stop=stop)
    assert (tmp_path / "out-0.txt").exists()
    assert [thread for thread in threading.enumerate() if thread.name == "sgd overlap"] == []


def test_stored_results_are_used_and_kept_as_without_it(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)  # each call takes a second of its thread
    monkeypatch.setattr(stored_steps, "perf_counter", lambda: next(counts[threading.get_ident()]))
    found = {}
    for overlap in (False, True):
        store = tmp_path / f"store{overlap}"
        runs = [
            started(STORED, store, overlap=overlap),
            started(STORED, store, None, {"save.file.mark": "x"}, overlap=overlap),
            started(STORED, store, {"texts": ["a", "bb", "dddd"]}, overlap=overlap),
        ]
        rows = [[(row["name"], row["calls"], row.get("reused")) for row in done.record["nodes"]] for done, _ in runs]
        found[overlap] = [sorted(calls) for _, calls in runs], rows, [done.record["warnings"] for done, _ in runs]
    assert found[True] == found[False]
    assert found[True][0][1] == ["save"] * 3
    assert found[True][0][2] == ["double"] * 3 + ["number dddd"] + ["save"] * 3


class Stream(SecondStream):
    """Notes the marks that each thread makes, and those that it waits for."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.waited: list[tuple[str, int]] = []
        self.used: list[Any] = []

    def given(self) -> int:
        self.made.append((threading.current_thread().name, len(self.made)))
        return len(self.made) - 1

    def taken(self, mark: int, values: Sequence[Any]) -> None:
        self.waited.append((threading.current_thread().name, mark))
        self.used += values


@pytest.mark.parametrize("shape", SHAPES)
def test_each_thread_waits_for_the_work_whose_values_it_takes(
    shape: str, slow: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, library = Stream(), NodeLibrary()
    monkeypatch.setattr(library, "second_stream", lambda run: stream)
    plan = replace(plan_of(SHAPES[shape]()), libraries=(library,))
    result = run(plan, out=tmp_path, overlap=True)
    assert result.status == "done"
    by = {mark: thread for thread, mark in stream.made}
    assert all(by[mark] != thread for thread, mark in stream.waited)  # a thread waits for the other one
    assert sorted(mark for _, mark in stream.waited) == sorted(by)  # and every mark is waited for, once
    assert sum(thread == "sgd overlap" for thread, _ in stream.waited) >= COUNT
    cells = {value.value for value in stream.used if isinstance(value, Cell)}
    assert cells >= set(numbers_of(result.outputs["painted"])) if shape == "body" else cells


def no_carry() -> Graph:
    body = graph(call("l.x", "m.scale", a=Var("l", "c")), o="$l.x")
    return graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), o="$l:o")


def all_at_once() -> Graph:
    each = graph(call("k.e.sum", "m.add", a=Var("k.e", "y"), b=Var("k", "x")), o="$k.e.sum")
    return changed(in_the_next_loop(), "k", loop("k.e", {"y": "$l:o"}, each), sums=Ref("k.e", "o"))


def late() -> Graph:
    joined = call("k.all", "m.join", cells="$l:o")  # the compiler moves it out of the loop
    return changed(in_the_next_loop(), "k", joined, all=Ref("k.all", "cell"))


REASONS = {
    "no loop over a list has a loop with `carry` in it": no_carry,
    "l: k.count (m.count) keeps a state": lambda: changed(
        in_the_next_loop(), "k", call("k.count", "m.count", a="$k.tail"), counted=Ref("k.count", "cell")
    ),
    "l: `both` of its `yield` is a list of results": lambda: changed(
        in_the_body(), "l", both=Items((Ref("l.tail", "cell"), Ref("l.start", "cell")))
    ),
    "l: k reads all results of l at once": all_at_once,
    "l: k reads k.all, which runs after l": late,
    "l: nothing follows the last loop with `carry` in it, and no loop goes over its results": lambda: graph(
        call("box", "m.machine"),
        call("cs", "m.cells", count=COUNT),
        loop("l", {"c": "$cs"}, graph(*head("l"), o="$l.d:s")),
        o="$l:o",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_run_that_cannot_overlap_is_an_error_that_says_why(reason: str, tmp_path: Path) -> None:
    plan = plan_of(REASONS[reason]())
    assert overlaps_of(plan) == ((), [reason])
    with pytest.raises(NodeError, match="finds nothing that could run beside") as found:
        run(plan, out=tmp_path / "out", overlap=True)
    assert reason in str(found.value)
    assert found.value.diagnostic.code == "unsupported"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("profile", [Profiling("torch"), Profiling(trace_values="v.jsonl")], ids=["torch", "values"])
def test_measurements_of_single_calls_are_refused(profile: Profiling, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="follows one call at a time"):
        run(plan_of(in_the_body()), out=tmp_path / "out", overlap=True, profile=profile)


def test_a_trace_has_lanes_for_the_second_thread(slow: Slow, tmp_path: Path) -> None:
    run(plan_of(in_the_next_loop()), out=tmp_path / "o", overlap=True, profile=Profiling(trace=tmp_path / "t.json"))
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    lanes = {each["tid"]: each["args"]["name"] for each in events if each["name"] == "thread_name"}
    spans = [(lanes[each["tid"]], each["name"]) for each in events if each["ph"] == "X"]
    assert spans.count(("overlapped nodes", "k.tail · m.decode")) == COUNT
    assert spans.count(("overlapped steps", "k 0")) == 1
    assert spans.count(("nodes", "l.d.heavy · m.paint")) == 2 * COUNT


class Heard(Observer):
    """Every call that ends."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self.calls.append(call.id)


def test_an_observer_hears_of_both_threads(slow: Slow, tmp_path: Path) -> None:
    heard, plain = Heard(), Heard()
    plan = plan_of(in_the_body())
    run(plan, out=tmp_path / "a", overlap=True, observers=[heard])
    run(plan, out=tmp_path / "b", observers=[plain])
    assert sorted(heard.calls) == sorted(plain.calls)


def test_components_of_both_count_once_in_the_memory_of_both() -> None:
    plan = plan_of(in_the_body())
    (overlap,), _ = overlaps_of(plan)
    nodes = [
        {"name": "l.d.heavy", "peak_bytes": 100, "components": [["box", "painter"], ["box", "decoder"]]},
        {"name": "l.tail", "peak_bytes": 70, "components": [["box", "decoder"]]},
        {"name": "l.save", "peak_bytes": 10, "components": [["box", "decoder"]]},
    ]
    parts = [{"holder": "box", "part": "decoder", "bytes": 20}, {"holder": "box", "part": "painter", "bytes": 30}]
    found = {"nodes": nodes, "components": parts}
    assert possible.needed_bytes(found, overlap.head, overlap.calls) == 150


def test_too_little_memory_for_both_is_a_warning(slow: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(possible, "misfit", lambda *_: "--overlap: too little")
    monkeypatch.setattr("sgd.graph.runtime.run.misfit", possible.misfit)
    result = run(plan_of(in_the_body()), out=tmp_path, overlap=True)
    assert result.record["warnings"] == ["--overlap: too little"]
    assert "overlapped_seconds" not in result.record
    assert not any(thread == "sgd overlap" for *_, thread in slow.calls)


def test_reports_of_a_component_are_of_the_call_that_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component keeps the run that it was acquired with, and tells it something when a call reads it."""
    runs: dict[str, Run] = {}

    def acquire(machine: Machine, part: str, run: Run) -> None:
        runs[part] = run
        machine.core.held[part] = machine.core.held.get(part, 0) + 1

    def read(machine: Machine, part: str) -> None:
        time.sleep(0.01)
        runs[part].detail(part=part)
        runs[part].warn(f"the {part} is old")
        runs[part].event("reading", part=part)

    monkeypatch.setattr(Machine, "acquire", acquire)
    monkeypatch.setattr(Machine, "read", read)
    plan = plan_of(in_the_next_loop())
    before, after = run(plan, out=tmp_path / "without"), run(plan, out=tmp_path / "with", overlap=True)
    assert sorted(after.record["warnings"]) == ["k.tail: the decoder is old", "l.d.heavy: the painter is old"]
    assert untimed(after.record) == untimed(before.record)


def test_the_command_overlaps_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = tmp_path / "slow_nodes.py"
    library.write_text(NODES)
    for name, text in (("chain", CHAIN), ("many", STORED)):
        (tmp_path / f"{name}.yaml").write_text(text)
    words = ["--library", str(library), "--device", "cpu", "--store", "off", "--overlap", "--out"]
    assert main(["exec", str(tmp_path / "chain.yaml"), *words, str(tmp_path / "no")]) == 2
    assert "no loop over a list has a loop with `carry` in it" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main(["exec", str(tmp_path / "many.yaml"), *words, str(tmp_path / "yes")]) == 0
    assert "s of nodes ran in a second thread while other nodes ran" in capsys.readouterr().out
    record = json.loads((tmp_path / "yes" / "run.json").read_text())
    assert {row["name"] for row in record["nodes"] if row.get("overlapped")} == {"save", "save.two", "save.file"}
    words = ["--overlap", "--processes", "2", "--device", "cpu", "--out", str(tmp_path / "no")]
    assert main(["exec", "many_prompts", *words]) == 2
    assert "a run in several processes cannot have --overlap" in capsys.readouterr().err
