"""A run that is cut between two turns, written to a file, and taken up by another executor: equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.graphs import graphs
from helpers.machines import LOG, arg, call, execute, graph, loop, numbers_of, plan_of
from helpers.positions import Listener
from hypothesis import HealthCheck, given, settings
from sgd.graph.compiler.ir import Graph, Var
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.node import State
from sgd.graph.resume import snapshot_file
from sgd.graph.resume.snapshot_content import Kept, snapshot_of
from sgd.graph.resume.snapshot_reading import resumed_at
from sgd.graph.resume.value_codec import Unstorable


def watched(plan: Plan, out: Path) -> tuple[Any, Listener]:
    """The outputs of a whole run, and its positions."""
    listener = Listener()
    found = execute(plan, out, positions=listener)
    return numbers_of(found), listener


def gone_on(plan: Plan, kept: Kept, out: Path, file: Path) -> Any:
    """The outputs of a run that goes on at a position, which went through a file."""
    snapshot_file.write(snapshot_of(kept, plan, [], out, {"choices": {}, "used": []}), file)
    start = resumed_at(snapshot_file.read(file), plan).start(plan, [], out)
    return numbers_of(execute(plan, out, start=start))


@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(graph=graphs(components=True))
def test_a_run_cut_at_any_place_has_equal_outputs(tmp_path: Path, graph: Graph) -> None:
    plan = plan_of(graph)
    whole, listener = watched(plan, tmp_path)
    for kept in listener.kept:
        try:
            found = gone_on(plan, kept, tmp_path, tmp_path / "s.safetensors")
        except Unstorable:
            continue  # a machine that a loop hands on
        assert found == whole
        assert all(LOG.count(("acquire", *rest)) == LOG.count(("release", *rest)) for _, *rest in _acquired())


def _acquired() -> list[Any]:
    return [entry for entry in LOG if entry[0] == "acquire"]


def nested() -> Graph:
    """A loop that maps over two lists, in each turn a loop with state that hands a value on; before and after calls."""
    inner = graph(
        call("l.m.c", "m.count", a=Var("l.m", "s")),
        call("l.m.x", "m.add", a="$l.m.c", b=Var("l", "c")),
        call("l.m.p", "m.paint", machine="$tuned:machine", a="$l.m.x"),
        s="$l.m.p",
    )
    body = graph(
        call("l.start", "m.scale", a=Var("l", "c"), by=3),
        loop("l.m", {"i": [0, 1, 2]}, inner, s="$l.start"),
        o="$l.m:s",
    )
    return graph(
        call("box", "m.machine"),
        call("tuned", "m.tune", machine="$box:machine", to=2),
        call("text", "m.encode", machine="$tuned:machine", text="hello"),
        call("cs", "m.cells", count=3),
        loop("l", {"c": "$cs"}, body),
        call("all", "m.join", cells="$l:o"),
        call("end", "m.add", a="$all", b="$text"),
        out="$end",
    )


def test_nested_loops_go_on_in_the_middle_and_call_nothing_twice(tmp_path: Path) -> None:
    plan = plan_of(nested())
    whole, listener = watched(plan, tmp_path)
    every = LOG.count(("read", "machine", "painter"))
    assert every == 9
    start, *between = listener.kept
    assert start.is_empty
    assert len(between) == 1 + 3 * (1 + 3) + 3
    for kept in between:
        assert gone_on(plan, kept, tmp_path, tmp_path / "s.safetensors") == whole
        levels = kept.position.levels
        done = 3 * levels[0].turn + (levels[1].turn if len(levels) > 1 else 0)
        assert LOG.count(("read", "machine", "painter")) == every - done
        assert ("acquire", "machine", "encoder") not in LOG  # the text was kept


def test_values_whose_source_was_freed_are_kept(tmp_path: Path) -> None:
    plan = plan_of(nested())
    _, listener = watched(plan, tmp_path)
    left = [len(kept.position.levels[0].over["c"]) for kept in listener.kept if len(kept.position.levels) == 1]
    assert left == [3, 2, 1, 0]


class Unknown(State):
    """A state without `snapshot`."""

    sum = 0


def test_a_loop_with_a_state_that_cannot_be_kept_goes_on_at_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setitem(machines.TYPES, "m.count", replace(machines.TYPES["m.count"], states={"total": Unknown}))
    body = graph(call("l.c", "m.count", a=Var("l", "s")), s="$l.c")
    given = graph(call("a", "m.const", value=5), loop("l", {"i": [0, 1, 2]}, body, s="$a"), out="$l:s")
    plan = plan_of(given)
    whole, listener = watched(plan, tmp_path)
    assert [[level.turn for level in kept.position.levels] for kept in listener.kept] == [[], [0]]
    assert listener.lost == [("l", turn, "Unknown has no `snapshot`") for turn in (1, 2, 3)]
    assert gone_on(plan, listener.kept[1], tmp_path, tmp_path / "s.safetensors") == whole


def test_a_finished_effect_is_not_called_again(tmp_path: Path) -> None:
    body = graph(call("l.x", "m.scale", a=Var("l", "c")), o="$l.x")
    given = graph(
        call("cs", "m.cells"),
        loop("l", {"c": "$cs"}, body),
        call("j", "m.join", cells="$l:o"),
        call("s", "m.save", a="$j", path="one.txt"),
        call("t", "m.save", a="$j", path="two.txt"),
        out=arg("$s:value"),
        other=arg("$t:value"),
    )
    plan = plan_of(given)
    whole, listener = watched(plan, tmp_path)
    after_one = listener.kept[-2]
    assert [effect.call for effect in after_one.effects] == ["s"]
    (tmp_path / "two.txt").unlink()
    before = (tmp_path / "one.txt").stat().st_mtime_ns
    assert gone_on(plan, after_one, tmp_path, tmp_path / "s.safetensors") == whole
    assert (tmp_path / "one.txt").stat().st_mtime_ns == before
    assert (tmp_path / "two.txt").exists()
    (tmp_path / "one.txt").unlink()
    (tmp_path / "two.txt").unlink()
    assert gone_on(plan, after_one, tmp_path, tmp_path / "s.safetensors") == whole
    assert (tmp_path / "one.txt").exists()  # its file was gone, so it was called


def test_an_effect_before_any_loop_is_not_called_again(tmp_path: Path) -> None:
    given = graph(call("a", "m.const", value=4), call("s", "m.save", a="$a"), out=arg("$s:value"))
    plan = plan_of(given)
    whole, listener = watched(plan, tmp_path)
    before = (tmp_path / "cell.txt").stat().st_mtime_ns
    assert gone_on(plan, listener.kept[-1], tmp_path, tmp_path / "s.safetensors") == whole
    assert (tmp_path / "cell.txt").stat().st_mtime_ns == before
