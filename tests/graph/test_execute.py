"""The executor: state, loops, failures, components, and that nothing is kept for longer than it is needed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import LOG, Cell, Machine, arg, call, execute, graph, loop, numbers_of, plan_of
from sgd.graph.compiler.compile import compile
from sgd.graph.compiler.ir import Format, Graph, Index, Items, Ref, Var
from sgd.graph.compiler.plan import Acquire, CallStep, after_effects
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.events import CallInfo, Observer, Observers
from sgd.graph.contract.node import State
from sgd.graph.contract.source_spans import Span
from sgd.graph.runtime.components import Components
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.failure import Interrupted, NodeFailed
from sgd.graph.runtime.record import Recorder


def run(given: Graph, **options: Any) -> Any:
    return numbers_of(execute(plan_of(given), **options))


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Another function in place of a node type's own, for the graphs that are made after."""

    def patch(type: str, function: Any) -> None:
        monkeypatch.setitem(machines.TYPES, type, replace(machines.TYPES[type], function=function))

    return patch


# loops


def test_the_turns_of_nested_loops_are_numbered_each_for_itself() -> None:
    text = Format((Index("l"), "/", Index("l.m"), "/", Var("l", "i"), Var("l.m", "j")))
    inner = graph(call("l.m.x", "m.parse", text=text), o="$l.m.x")
    body = graph(loop("l.m", {"j": ["a", "b", "c"]}, inner), o="$l.m:o")
    found = run(graph(loop("l", {"i": ["x", "y"]}, body), out="$l:o"))
    assert found == {"out": [[sum(map(ord, f"{i}/{j}/{'xy'[i]}{'abc'[j]}")) for j in range(3)] for i in range(2)]}


def test_state_is_handed_on_at_once() -> None:
    # Both carried values come from the turn before: a swap, not one after the other.
    given = graph(
        call("a", "m.const", value=1),
        call("b", "m.const", value=2),
        loop("l", {"i": [0, 0, 0]}, graph(s=Var("l", "t"), t=Var("l", "s")), s="$a", t="$b"),
        s="$l:s",
        t="$l:t",
    )
    assert run(given) == {"s": 2, "t": 1}


def test_several_variables_advance_together_over_lists_values_and_outputs() -> None:
    body = graph(call("l.x", "m.scale", a=Var("l", "c"), by=Var("l", "n")), o="$l.x")
    given = graph(
        call("cs", "m.cells"), call("ns", "m.numbers"), loop("l", {"c": "$cs", "n": "$ns:value"}, body), out="$l:o"
    )
    assert run(given) == {"out": [0, 1, 4]}


def test_one_list_may_be_gone_over_twice() -> None:
    def over(id: str) -> Any:
        return loop(id, {"c": "$cs"}, graph(call(f"{id}.x", "m.scale", a=Var(id, "c"), by=ord(id)), o=f"${id}.x"))

    assert run(graph(call("cs", "m.cells"), over("b"), over("c"), p="$b:o", q="$c:o")) == {
        "p": [0, 98, 196],
        "q": [0, 99, 198],
    }


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"a": "$x:value", "b": [1, 2]}, "differ in length: `a` has 3 entries, `b` has 2 entries"),
        ({"a": "$none:value"}, "nothing to loop over: `a` has 0 entries"),
    ],
)
def test_bad_lengths_name_the_loop_and_its_place(over: dict[str, Any], message: str) -> None:
    body = graph(call("l.c", "m.const", value=Var("l", "a")), o="$l.c")
    bad = replace(loop("l", over, body), span=Span("w.yaml", 7, 3, 7, 4))
    given = graph(call("x", "m.numbers"), call("none", "m.numbers", count=0), bad, out="$l:o")
    with pytest.raises(NodeError, match=message) as caught:
        run(given)
    assert "loop l:" in str(caught.value)
    assert "w.yaml:7:3" in str(caught.value)


def test_a_loop_over_a_single_value_is_an_error() -> None:
    body = graph(call("l.c", "m.const", value=Var("l", "a")), o="$l.c")
    with pytest.raises(NodeError, match="`a` is not a list: Cell"):
        run(graph(call("x", "m.const", value=1), loop("l", {"a": "$x"}, body), out="$l:o"))


# state


def test_state_belongs_to_a_run_of_the_innermost_loop() -> None:
    inner = graph(call("l.m.c", "m.count", a=Var("l.m", "c")), o="$l.m.c")
    body = graph(loop("l.m", {"c": "$cs"}, inner), o="$l.m:o")
    given = graph(
        call("cs", "m.cells"),
        loop("l", {"i": [1, 2]}, body),
        call("z", "m.count", a="$y"),
        call("y", "m.const", value=4),
        out="$l:o",
        z="$z",
    )
    # Each run of the inner loop begins anew: 0+1, +1+1, +2+1. The inner loop is the same in every turn: it runs once.
    hoisted = numbers_of(execute(plan_of(given)))
    assert hoisted == {"out": [[1, 3, 6], [1, 3, 6]], "z": 5}
    assert LOG.count(("begin",)) == LOG.count(("end",)) == 2
    assert numbers_of(execute(plan_of(given, ()))) == hoisted
    assert LOG.count(("begin",)) == LOG.count(("end",)) == 3


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_state_ends_when_a_node_of_the_loop_fails(turn: int) -> None:
    body = graph(
        call("l.c", "m.count", a=Var("l", "c")), call("l.f", "m.fail", a=Var("l", "c"), at=turn), o="$l.c", p="$l.f"
    )
    with pytest.raises(NodeFailed, match="out of luck"):
        run(graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o", p="$l:p"))
    assert LOG.count(("begin",)) == LOG.count(("end",)) == 1


def test_state_ends_when_the_run_is_stopped() -> None:
    body = graph(call("l.c", "m.count", a=Var("l", "c")), o="$l.c")
    stop = machines.StopAfter(2)
    with pytest.raises(Interrupted):
        run(graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o"), observer=stop, stop=stop.asked)
    assert LOG.count(("begin",)) == LOG.count(("end",)) == 1


class Bad(State):
    """Cannot end."""

    sum = 0

    def end(self) -> None:
        raise OSError("disk full")


def test_a_state_that_cannot_end_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machines.TYPES, "m.count", replace(machines.TYPES["m.count"], states={"total": Bad}))
    recorder = Recorder()
    given = graph(call("a", "m.const", value=1), call("c", "m.count", a="$a"), out="$c")
    assert run(given, observer=recorder) == {"out": 2}
    assert recorder.warnings == ["c: state `total` could not end: OSError: disk full"]


# arguments


def test_a_value_is_lifted_to_a_list_of_one_and_none_stays_none() -> None:
    assert run(graph(call("a", "m.const", value=4), call("j", "m.join", cells="$a"), out="$j")) == {"out": 9}


def test_plain_values_over_edges_keep_to_the_bounds() -> None:
    given = graph(
        call("a", "m.const", value=50),
        call("p", "m.plain", a="$a"),
        call("q", "m.add", a="$a", b="$a"),
        call("r", "m.plain", a="$q"),
        call("ok", "m.scale", a="$a", by="$p:value"),
        call("bad", "m.scale", a="$a", by="$r:value"),
        out="$ok",
        bad="$bad",
    )
    with pytest.raises(NodeFailed, match=r"bad \(m.scale\) failed: `by`: 200 is out of bounds"):
        run(given)


def test_paths_of_a_loop_are_relative_to_the_file_that_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "w.yaml").write_text(
        "sgd: 1\nnodes:\n  l:\n    for: {f: [a.txt, b.txt]}\n    body: {k: {uses: m.kinds, with: {file: $f}}}\n"
        "    yield: {k: $k}\n  one: {uses: m.kinds, with: {file: c.txt}}\noutputs: {l: $l, one: $one}\n"
    )
    monkeypatch.chdir(tmp_path)
    plan = compile("flow/w.yaml", library=machines.library())
    places = [repr([tmp_path / "flow" / name, None, None]) for name in ("a.txt", "b.txt", "c.txt")]
    found = execute(plan)
    assert [*found["l"], found["one"]] == places


def test_lists_hold_entries_of_the_declared_type() -> None:
    given = graph(call("k", "m.kinds", files=["a", "b"], colours=["red"]), out="$k:value")
    paths, colours = [Path("a"), Path("b")], [machines.Colour.RED]
    assert run(given) == {"out": repr([None, paths, colours])}


def test_a_node_that_changes_its_list_changes_it_for_nobody_else(patched: Any) -> None:
    def greedy(count: int, given: list[int]) -> Cell:
        given.append(count)
        return Cell(len(given))

    type = machines.node("m.greedy")(_annotated(greedy)).node  # type: ignore[attr-defined]
    body = graph(
        replace(call("l.x", "m.const"), type=type, args={"count": arg(Var("l", "i")), "given": arg([1, 2])}), o="$l.x"
    )
    assert run(graph(loop("l", {"i": [1, 2, 3]}, body), out="$l:o")) == {"out": [3, 3, 3]}


def _annotated(function: Any) -> Any:
    function.__annotations__ = {"count": int, "given": list[int], "return": Cell}
    return function


def test_here_is_the_path_and_several_outputs_are_told_apart() -> None:
    given = graph(
        call("a", "m.const", value=23),
        loop("l", {"i": [1]}, graph(call("l.h", "m.here", a="$a"), o="$l.h:value")),
        call("s", "m.split", a="$a"),
        here="$l:o",
        low="$s:low",
        high="$s:high",
    )
    assert run(given) == {"here": ["l.h"], "low": 2, "high": 3}


def test_outputs_may_be_none_lists_and_literals(patched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    patched("m.const", lambda value: None)
    [declared] = machines.TYPES["m.const"].outputs
    maybe = replace(machines.TYPES["m.const"], outputs=(replace(declared, optional=True),))
    monkeypatch.setitem(machines.TYPES, "m.const", maybe)
    given = graph(
        call("a", "m.const", value=1), call("cs", "m.cells"), a="$a", b="$cs", c=3, d=Items((Ref("a", "cell"),))
    )
    assert run(given) == {"a": None, "b": [0, 1, 2], "c": 3, "d": [None]}


# failures


def test_a_failure_names_node_place_inputs_and_keeps_its_cause() -> None:
    span = Span("flow.yaml", 12, 5, 12, 9)
    bad = replace(call("l.f", "m.fail", a=Var("l", "c"), at=2), span=span)
    with pytest.raises(NodeFailed) as caught:
        run(graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, graph(bad, o="$l.f")), out="$l:o"))
    error = caught.value
    file = Path(machines.__file__)
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "out of luck" in text)
    place = f"{file.resolve().relative_to(Path.cwd())}:{line} in fail"
    assert str(error).splitlines() == [
        "l.f (m.fail) failed: RuntimeError: out of luck",
        " --> flow.yaml:12:5",
        "  a: Cell shape [1], whole, 2",
        "  at: int 2",
        f' = at {place}: raise RuntimeError("out of luck")',
    ]
    assert isinstance(error.__cause__, RuntimeError)
    assert (error.call.id, error.where) == ("l.f", "flow.yaml:12:5")


def test_lists_of_values_are_described_by_their_first(patched: Any) -> None:
    def broken(cells: list[Cell]) -> Cell:
        raise NodeError("no", help="do something else")

    patched("m.join", broken)
    with pytest.raises(NodeFailed) as caught:
        run(graph(call("cs", "m.cells"), call("j", "m.join", cells="$cs"), out="$j"))
    assert "  cells: 3 x Cell shape [1], whole, 0" in str(caught.value).splitlines()
    assert str(caught.value).endswith(" = help: do something else")


def test_facts_that_fail_do_not_hide_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "facts", lambda self: 1 / 0)
    with pytest.raises(NodeFailed, match="out of luck"):
        run(graph(call("a", "m.const", value=0), call("f", "m.fail", a="$a"), out="$f"))


@pytest.mark.parametrize("error", [SystemExit(2), MemoryError(), RecursionError("deep"), StopIteration(3)])
def test_every_exception_of_a_node_names_the_node(patched: Any, error: BaseException) -> None:
    def broken(value: int) -> Cell:
        raise error

    patched("m.const", broken)
    with pytest.raises(NodeFailed, match=rf"a \(m.const\) failed: {type(error).__name__}") as caught:
        run(graph(call("a", "m.const", value=0), out="$a"))
    assert caught.value.__cause__ is error


def test_an_interrupt_inside_a_node_is_no_failure_of_the_node(patched: Any) -> None:
    def broken(value: int) -> Cell:
        raise KeyboardInterrupt

    patched("m.const", broken)
    with pytest.raises(KeyboardInterrupt):
        run(graph(call("a", "m.const", value=0), out="$a"))


@pytest.mark.parametrize("result", [(1, 2, 3), 5, [1]])
def test_results_of_another_type_than_declared_name_the_node(patched: Any, result: Any) -> None:
    patched("m.split", lambda a: result)
    with pytest.raises(NodeFailed, match=r"s \(m.split\) failed"):
        run(graph(call("a", "m.const", value=0), call("s", "m.split", a="$a"), out="$s:low"))


def test_a_hoisted_node_fails_under_its_own_name_before_the_loop_begins() -> None:
    body = graph(call("l.f", "m.fail", a="$a", at=1), call("l.x", "m.scale", a="$l.f", by=Var("l", "i")), o="$l.x")
    with pytest.raises(NodeFailed, match=r"l\.f \(m.fail\) failed"):
        run(graph(call("a", "m.const", value=1), loop("l", {"i": [1, 2]}, body), out="$l:o"))
    assert ("loop", "l") not in LOG


# components


def painted() -> Graph:
    return graph(
        call("m", "m.machine"),
        call("e", "m.encode", machine="$m:machine"),
        call("p", "m.paint", machine="$m:machine", a="$e"),
        out="$p",
    )


@pytest.mark.parametrize("broken", ["m.encode", "m.paint"])
def test_components_are_let_go_when_a_reader_fails(patched: Any, broken: str) -> None:
    def fail(**_: Any) -> Cell:
        raise RuntimeError("no")

    patched(broken, fail)
    with pytest.raises(NodeFailed):
        run(painted())
    assert [e[0] for e in LOG if e[0] in ("acquire", "release")] == ["acquire", "release"] * (1 + (broken == "m.paint"))


def test_a_component_that_cannot_be_brought_in_fails_under_its_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: Machine, part: str, run: Any) -> None:
        if part == "painter":
            raise NodeError("the file is gone")
        LOG.append(("acquire", part))

    monkeypatch.setattr(Machine, "acquire", acquire)
    monkeypatch.setattr(Machine, "release", lambda self, part: LOG.append(("release", part)))
    monkeypatch.setattr(Machine, "read", lambda self, part: None)
    with pytest.raises(NodeFailed, match=r"m \(m.machine\) failed: the file is gone\n  component: painter"):
        run(painted())
    assert [e for e in LOG if e[0] in ("acquire", "release")] == [("acquire", "encoder"), ("release", "encoder")]


def test_parts_brought_in_before_one_that_fails_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: Machine, part: str, run: Any) -> None:
        if part == "decoder":
            raise NodeError("no")
        LOG.append(("acquire", part))

    monkeypatch.setattr(Machine, "acquire", acquire)
    monkeypatch.setattr(Machine, "release", lambda self, part: LOG.append(("release", part)))
    with pytest.raises(NodeFailed):
        run(graph(call("m", "m.machine"), call("w", "m.whole", machine="$m:machine"), out="$w"))
    assert {e for e in LOG if e[0] == "release"} == {("release", "encoder"), ("release", "painter")}


def test_machines_made_in_a_turn_give_up_their_components_in_that_turn() -> None:
    body = graph(
        call("l.m", "m.machine", name=Var("l", "n")),
        loop(
            "l.k",
            {"j": [1, 2]},
            graph(call("l.k.e", "m.encode", machine="$l.m:machine", text=Format((Index("l.k"),))), o="$l.k.e"),
        ),
        o="$l.k:o",
    )
    run(graph(loop("l", {"n": ["x", "y"]}, body), out="$l:o"))
    parts = [e for e in LOG if e[0] in ("acquire", "read", "release")]
    assert [(e[0], e[1]) for e in parts] == [
        (what, name) for name in "xy" for what in ("acquire", "read", "read", "release")
    ]


def test_the_next_component_is_brought_near_while_the_one_before_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    near = threading.Event()
    seen: list[Any] = []

    def prefetch(self: Machine, part: str, run: Context) -> None:
        seen.append((part, threading.current_thread() is threading.main_thread(), run.call and run.call.id))
        run.progress(1, 2)  # reaches nobody: observers are called in the thread of the plan
        near.set()

    def encode(machine: Machine, text: str = "") -> Cell:
        assert near.wait(5), "nothing was brought near"
        return Cell(1)

    class Listen(Observer):
        heard = 0

        def progress(self, call: CallInfo | None, done: int, total: int, label: str) -> None:
            self.heard += 1

    monkeypatch.setattr(Machine, "prefetch", prefetch)
    monkeypatch.setitem(machines.TYPES, "m.encode", replace(machines.TYPES["m.encode"], function=encode))
    listen = Listen()
    run(painted(), observer=listen)
    assert seen == [("painter", False, "m")]
    assert listen.heard == 0


def test_an_error_while_bringing_near_is_left_to_the_acquisition(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()
    uncaught: list[Any] = []

    def prefetch(self: Machine, part: str, run: Any) -> None:
        failed.set()
        raise OSError("no network")

    def encode(machine: Machine, text: str = "") -> Cell:
        assert failed.wait(5)
        return Cell(1)

    monkeypatch.setattr(Machine, "prefetch", prefetch)
    monkeypatch.setitem(machines.TYPES, "m.encode", replace(machines.TYPES["m.encode"], function=encode))
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    executor = Executor(plan_of(painted()), Context(Path("."), Observer()), Observer())
    assert numbers_of(executor.execute()) == {"out": 2}
    assert executor.components.thread is not None
    executor.components.thread.join(5)
    assert uncaught == []


def test_a_prefetching_thread_that_is_still_at_work_takes_the_next_parts() -> None:
    begun, free, seen = threading.Event(), threading.Event(), []

    class Slow:
        def prefetch(self, part: str, run: Context) -> None:
            seen.append(part)
            begun.set()
            assert free.wait(5)

    maker = call("m", "m.const", value=1)
    components = Components(Context(Path("."), Observer()), Observer(), lambda ref: maker, threading.Event())
    holder = Ref("m", "out")
    needed = {part: Acquire(holder, part) for part in ("a", "b", "c", "d")}
    before = CallStep(maker)
    components.prefetch((before, needed["a"], needed["b"]), {holder: Slow()})
    assert begun.wait(5)
    components.prefetch((before, needed["a"], needed["c"], needed["d"]), {holder: Slow()})
    with pytest.raises(NodeFailed):  # the run is at `d` now
        components.acquire(needed["d"], {holder: Slow()})
    free.set()
    assert components.thread is not None
    components.thread.join(5)
    assert seen == ["a", "c"]
    components.prefetch((before, needed["b"]), {holder: Slow()})
    components.thread.join(5)
    assert seen == ["a", "c", "b"]


# planning


def test_turns_are_limited_and_lists_keep_their_length() -> None:
    first = loop("p", {"t": ["a", "b", "c", "d"]}, graph(call("p.x", "m.parse", text=Var("p", "t")), o="$p.x"))
    body = graph(call("q.x", "m.scale", a=Var("q", "c"), by=Var("q", "n")), o="$q.x")
    second = loop("q", {"c": "$p:o", "n": [1, 2, 3, 4]}, body)
    found = run(graph(first, second, out="$q:o"), turns=2)
    assert found == {"out": [97, 196, 196, 196]}
    assert LOG.count(("started", "p.x")) == LOG.count(("started", "q.x")) == 2


def test_effects_and_their_readers_do_not_run_while_planning() -> None:
    saved = loop(
        "l",
        {"c": "$cs"},
        graph(call("l.s", "m.save", a=Var("l", "c"), path=Format((Index("l"), ".txt"))), o="$l.s:value"),
    )
    after = loop("k", {"p": "$l:o"}, graph(call("k.x", "m.parse", text=Var("k", "p")), o="$k.x"))
    given = graph(
        call("cs", "m.cells"),
        saved,
        after,
        call("j", "m.join", cells="$k:o"),
        call("b", "m.join", cells="$cs"),
        out="$j",
        b="$b",
    )
    plan = plan_of(given)
    assert after_effects(plan) == {"l.s", "k.x", "j"}
    assert run(given, skip=after_effects(plan), turns=2) == {"out": None, "b": run(given_b(given))["b"]}


def given_b(given: Graph) -> Graph:
    return replace(given, outputs={"b": given.outputs["b"]}, items={n: given.items[n] for n in ("cs", "b")})


def test_a_loop_over_an_effects_result_runs_one_turn_while_planning(patched: Any) -> None:
    given = graph(
        call("a", "m.const", value=1),
        call("s", "m.save", a="$a"),
        loop("l", {"c": "$s:value"}, graph(call("l.x", "m.parse", text=Var("l", "c")), o="$l.x")),
        out="$l:o",
    )
    assert run(given, skip=after_effects(plan_of(given))) == {"out": [None]}


# what is kept


class Alive(Observer):
    """How many cells are alive whenever a node begins."""

    def __init__(self) -> None:
        self.cells: list[weakref.ref[Cell]] = []
        self.counts: dict[str, list[int]] = {}

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.cells = [c for c in self.cells if c() is not None]
        self.counts.setdefault(call.id, []).append(len(self.cells))

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        self.cells += [
            weakref.ref(v) for o in outputs.values() for v in (o if isinstance(o, list) else [o]) if isinstance(v, Cell)
        ]


@pytest.fixture
def no_collection() -> Any:
    """Without the collector of cycles: what is freed must be freed at once."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_a_loop_keeps_one_state_and_the_values_of_the_turn() -> None:
    body = graph(
        call("l.x", "m.scale", a=Var("l", "s")),
        call("l.y", "m.add", a="$l.x", b=Var("l", "s")),
        call("l.z", "m.scale", a="$l.y"),
        s="$l.z",
    )
    given = graph(call("a", "m.const", value=1), loop("l", {"i": [1, 2, 3, 4]}, body, s="$a"), out="$l:s")
    alive, recorder = Alive(), Recorder()
    run(given, observer=Observers([alive, recorder.profile, recorder.turns, recorder]))
    # The state; state and x; y alone, since both were read for the last time.
    assert alive.counts == {"a": [0], "l.x": [1] * 4, "l.y": [2] * 4, "l.z": [1] * 4}


@pytest.mark.usefixtures("no_collection")
def test_a_map_frees_each_entry_after_its_turn_and_keeps_the_results() -> None:
    body = graph(call("l.x", "m.scale", a=Var("l", "c")), call("l.y", "m.scale", a="$l.x"), o="$l.y")
    given = graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), call("j", "m.join", cells="$l:o"), out="$j")
    alive = Alive()
    run(given, observer=alive)
    # Three entries; one is read and gives x, one is read and gives y: always three.
    assert alive.counts == {"cs": [0], "l.x": [3, 3, 3], "l.y": [3, 3, 3], "j": [3]}


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("outputs", [{"out": "$d"}, {"out": "$s:high"}], ids=["one output", "several"])
def test_freed_values_are_gone_when_observers_hear_of_it(outputs: dict[str, Any]) -> None:
    made: dict[Ref, weakref.ref[Cell]] = {}
    alive: list[Ref] = []

    class Note(Observer):
        def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
            made.update({Ref(call.id, port): weakref.ref(value) for port, value in outputs.items()})

        def values_freed(self, names: Any) -> None:
            alive.extend(name for name in names if made[name]() is not None)

    given = graph(
        call("a", "m.const", value=1),
        call("d", "m.add", a="$a", b="$a"),
        call("s", "m.split", a="$d"),
        call("unread", "m.split", a="$a"),
        **outputs,
    )
    execute(plan_of(given, ()), observer=Note())
    assert {ref.node for ref in made} == {"a", "d", "s", "unread"}
    assert alive == []


@pytest.mark.usefixtures("no_collection")
def test_a_list_that_is_read_again_keeps_its_entries() -> None:
    body = graph(call("l.x", "m.scale", a=Var("l", "c"), by=3), o="$l.x")
    given = graph(
        call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), call("j", "m.join", cells="$cs"), out="$j", o="$l:o"
    )
    assert run(given) == {"out": run_join([0, 1, 2]), "o": [0, 3, 6]}


def run_join(values: list[int]) -> int:
    return machines.join([Cell(v) for v in values]).value


@pytest.mark.usefixtures("no_collection")
def test_nothing_of_a_run_outlives_it_but_its_outputs() -> None:
    made: list[weakref.ref[Cell]] = []

    class Note(Observer):
        def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
            made.extend(weakref.ref(v) for v in outputs.values())

    recorder = Recorder()
    given = graph(call("a", "m.const", value=1), call("b", "m.scale", a="$a"), call("c", "m.scale", a="$b"), out="$c")
    found = execute(plan_of(given), observer=Observers([Note(), recorder.profile, recorder]))
    assert [ref() for ref in made] == [None, None, found["out"]]


@pytest.mark.usefixtures("no_collection")
def test_an_error_keeps_only_the_failed_nodes_arguments() -> None:
    alive = Alive()
    given = graph(
        call("kept", "m.const", value=7),
        call("a", "m.const", value=1),
        call("f", "m.fail", a="$a", at=1),
        out="$f",
        kept="$kept",
    )
    with pytest.raises(NodeFailed) as caught:
        execute(plan_of(given), observer=alive)
    assert [c() and c().value for c in alive.cells] == [None, 1]
    assert caught.value.call.id == "f"


def test_a_released_machine_is_gone_with_its_last_component() -> None:
    plan = plan_of(painted())
    alive: list[weakref.ref[Machine]] = []

    class Note(Observer):
        def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
            alive.extend(weakref.ref(v) for v in outputs.values() if isinstance(v, Machine))

    executor = Executor(plan, Context(Path("."), Note()), Note())
    executor.execute()
    assert [m() for m in alive] == [None]
    assert not executor.components.held


def test_a_stopped_run_ends_before_the_next_step_without_running_it() -> None:
    stop = threading.Event()
    stop.set()
    began = time.perf_counter()
    with pytest.raises(Interrupted):
        run(painted(), stop=stop)
    assert LOG == []
    assert time.perf_counter() - began < 5
