"""Observers: who hears what, the profile's times and memory, the progress display."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, execute, graph, loop, plan_of
from sgd.graph.compiler.ir import Graph, Var
from sgd.graph.compiler.plan import Expected, ExpectedPsnr, Plan
from sgd.graph.contract.events import CallInfo, Observer, Observers
from sgd.graph.contract.likeness import Likeness
from sgd.graph.contract.node import Run
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.execute import Executor
from sgd.graph.runtime.observers import memory_samples
from sgd.graph.runtime.observers.memory_samples import Memory
from sgd.graph.runtime.observers.profile import Profile
from sgd.graph.runtime.observers.progress import Progress
from sgd.graph.runtime.run import run


class Hears(Observer):
    """Writes down the names of what it hears of."""

    def __init__(self, log: list[str], name: str = "") -> None:
        self.log, self.name = log, name

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self.log.append(f"{self.name}{call.id} {sorted(arguments)}")

    def values_freed(self, names: Any) -> None:
        self.log.append(f"{self.name}freed {len(names)}")


def small() -> Graph:
    return graph(call("a", "m.const", value=1), call("b", "m.scale", a="$a"), out="$b")


def test_groups_pass_on_in_order_and_may_stand_in_groups() -> None:
    log: list[str] = []
    inner = Observers([Hears(log, "1 "), Observer(), Hears(log, "2 ")])
    execute(plan_of(small()), observer=Observers([inner, Hears(log, "3 ")]))
    assert log == [f"{n} {what}" for what in ("a ['value']", "b ['a']", "freed 1") for n in (1, 2, 3)]


def test_one_that_fails_hears_no_more_and_the_others_hear_all() -> None:
    log: list[str] = []
    warned: list[str] = []

    class Fails(Hears):
        def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
            raise OSError("gone")

    class Warned(Observer):
        def warned(self, call: CallInfo | None, message: str) -> None:
            warned.append(message)

    group = Observers([Fails(log, "f "), Hears(log), Warned()])
    execute(plan_of(small()), observer=group)
    assert log == ["a ['value']", "b ['a']", "freed 1"]
    assert warned == ["Fails failed and receives no more events: OSError: gone"]


def test_a_closed_group_is_silent() -> None:
    log: list[str] = []
    group = Observers([Hears(log)])
    group.warned(None, "nobody minds")
    Executor(plan_of(small()), Context(Path("."), group), group).execute()
    heard = list(log)
    group.close()
    Executor(plan_of(small()), Context(Path("."), group), group).execute()
    assert heard == log != []


def profiled(given: Graph, tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in run(plan_of(given), out=tmp_path).record["nodes"]}


def test_seconds_are_those_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(a: Cell, by: int = 2) -> Cell:
        time.sleep(0.05)
        return Cell(a.value)

    monkeypatch.setitem(machines.TYPES, "m.scale", replace(machines.TYPES["m.scale"], function=slow))
    body = graph(call("l.x", "m.scale", a=Var("l", "c")), o="$l.x")
    rows = profiled(graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o"), tmp_path)
    assert rows["l.x"]["calls"] == 3
    assert 0.15 <= rows["l.x"]["seconds"] < 0.3
    assert rows["cs"]["seconds"] < 0.05
    assert rows["l.x"]["device_seconds"] is None


MIB = 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
@pytest.mark.parametrize("keep", [False, True], ids=["only while it runs", "in its result"])
def test_the_memory_of_a_node_that_takes_200_megabytes_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    class Bytes(Cell):
        held: Any = None

    def take(a: Cell, by: int = 2) -> Cell:
        block = bytearray(200 * MIB)
        block[::4096] = b"x" * len(block[::4096])  # touched, or the system gives none
        time.sleep(0.03)
        result = Bytes(1)
        result.held = block if keep else None
        return result

    monkeypatch.setitem(machines.TYPES, "m.scale", replace(machines.TYPES["m.scale"], function=take))
    given = graph(
        call("a", "m.const", value=1), call("b", "m.scale", a="$a"), call("c", "m.split", a="$b"), out="$c:low"
    )
    record = run(plan_of(given), out=tmp_path).record
    rows = {row["name"]: row["peak_bytes"] for row in record["nodes"]}
    assert 195 * MIB < rows["b"] - rows["a"] < 260 * MIB
    assert record["peak_bytes"] >= rows["b"]


def test_memory_says_nothing_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_samples, "STATM", str(tmp_path / "nothing"))
    memory = Memory()
    memory.begin()
    assert memory.end(1.0) == memory.highest == 0
    memory.close()


def test_a_short_peak_is_seen_without_a_sample() -> None:
    memory = Memory()
    memory.close()
    resource = pytest.importorskip("resource")
    room = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory._sample() + 64 * MIB
    memory.begin()
    held = b"x" * room
    del held
    highest = memory.end(0.0)
    assert highest >= memory._last + room - 16 * MIB
    assert memory.highest == highest
    memory.begin()
    assert memory.end(0.0) < highest


def test_the_sampling_thread_takes_a_small_share_beside_a_busy_one() -> None:
    memory = Memory()
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < 1.5:
        sum(range(1000))
    memory.close()
    # The first pauses are short: the share is not known yet.
    assert 0 < memory.cpu_seconds < 2 * memory_samples.SHARE * seconds + 2e-3


def test_details_of_a_failed_call_are_kept() -> None:
    profile = Profile()
    failed = call("f", "m.fail", a="$a")
    profile.node_started(failed, {})
    time.sleep(0.02)
    profile.node_failed(failed, RuntimeError())
    assert profile.rows["f"].calls == 1
    assert profile.rows["f"].seconds >= 0.02
    # A failure outside of the node, while bringing its component in, is no call of it.
    profile.node_failed(failed, RuntimeError())
    assert profile.rows["f"].calls == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, status: str = "done") -> str:
    body = graph(call("l.x", "m.scale", a=Var("l", "c")), o="$l.x")
    given = graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o")
    progress = Progress(stream)
    plan = plan_of(given)
    progress.run_started(plan, Run())
    execute(plan, observer=progress)
    progress.progress(call("l.x", "m.scale"), 1, 4, "frames")
    progress.warned(None, "mind [bold]this[/bold]")
    progress.run_finished(status, None)
    return stream.getvalue()


def test_progress_writes_nothing_but_warnings_where_nobody_looks() -> None:
    assert shown(io.StringIO()) == "warning: mind [bold]this[/bold]\n"


def test_progress_shows_loops_on_a_terminal_and_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert "warning: mind [bold]this[/bold]" in text
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is left hidden"


def test_the_comparison_after_a_run_is_shown_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(NodeLibrary):
        def likeness(
            self, before: Path, after: Path, progress: Callable[[int], None], network: Path | None = None
        ) -> Likeness:
            for frames in (1, 2):
                progress(frames)
                time.sleep(0.25)  # the display draws ten times a second
            return Likeness((2, 2), ((8, 8), (8, 8)), 50.0)

    monkeypatch.setenv("TERM", "xterm")
    (tmp_path / "before.txt").touch()
    psnr = ExpectedPsnr(40, "out", tmp_path / "before.txt", "./before.txt")
    plan = plan_of(graph(call("a", "m.const", value=1), call("s", "m.save", a="$a"), out="$s:value"))
    plan = replace(plan, expected=Expected(psnr=psnr), loaded=(Slow(),))
    stream = Terminal()
    result = run(plan, out=tmp_path / "out", observers=[Progress(stream)])
    assert [row["value"] for row in result.record["expectations"]] == [50.0], result.record["expectations"]
    text = stream.getvalue()
    assert [f"comparing out: frame {n}" in text for n in (1, 2, 3)] == [True, True, False]
    assert text.rindex("\x1b[?25h") > text.rindex("comparing out"), "the display stays"


def test_a_failure_in_the_middle_of_a_loop_leaves_the_terminal_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(stream)
    progress.run_started(Plan("t", (), {}), Run())
    body = graph(call("l.f", "m.fail", a=Var("l", "c"), at=1), o="$l.f")
    with pytest.raises(machines.NodeFailed):
        execute(plan_of(graph(call("cs", "m.cells"), loop("l", {"c": "$cs"}, body), out="$l:o")), observer=progress)
    progress.run_finished("failed", RuntimeError())
    progress.run_finished("failed", RuntimeError())
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")
