"""Planning: the same nodes, two turns of each loop, and what it says is what a run records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import LOG, Cell, call, graph, loop, plan_of
from sgd.graph.compiler.compile import compile
from sgd.graph.compiler.ir import Format, Graph, Index, Var
from sgd.graph.contract.node import Run
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.runtime.estimate import estimate
from sgd.graph.runtime.failure import NodeFailed
from sgd.graph.runtime.run import run

BUNDLED = sorted(p.stem for p in bundled_workflows().glob("*.yaml"))


class Meter:
    """Counts one operation for each time it is asked, and as many more as a node says."""

    def __init__(self) -> None:
        self.flops = self.peak = 0

    def take(self) -> dict[str, int]:
        taken = {"flops": self.flops, "peak_bytes": self.peak, "live_bytes": 0}
        self.flops = self.peak = 0
        return taken


METER = Meter()


class Metered(NodeLibrary):
    """A library whose meter counts what nodes add to `METER`."""

    @contextmanager
    def plan_meter(self, run: Run) -> Iterator[Meter]:
        METER.take()
        yield METER


def chain() -> Graph:
    """Encode several texts, then go over the results together with a list: the second loop needs full lists."""
    first = loop("p", {"t": ["a", "b", "c", "d"]}, graph(call("p.x", "m.parse", text=Var("p", "t")), o="$p.x"))
    inner = graph(call("q.m.y", "m.add", a=Var("q.m", "s"), b=Var("q", "c")), s="$q.m.y")
    body = graph(loop("q.m", {"j": [1, 2, 3]}, inner, s=Var("q", "c")), o="$q.m:s")
    second = loop("q", {"c": "$p:o", "n": [1, 2, 3, 4]}, body)
    saved = loop(
        "s", {"c": "$q:o"}, graph(call("s.w", "m.save", a=Var("s", "c"), path=Format((Index("s"),))), o="$s.w:value")
    )
    return graph(first, second, saved, files="$s:o")


def rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["nodes"]}


def test_two_turns_stand_for_all_and_calls_are_counted_through_loops() -> None:
    found = rows(estimate(plan_of(chain())))
    assert {n: r["calls"] for n, r in found.items()} == {"p.x": 4, "q.m.y": 12, "s.w": 4}


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    estimate(plan_of(chain()))
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_those_that_a_run_records(tmp_path: Path) -> None:
    plan = plan_of(chain())
    planned = rows(estimate(plan))
    ran = rows(dict(run(plan, out=tmp_path).record))
    for name in ("p.x", "q.m.y"):
        facts = [{k: o[k] for k in ("port", "type", "shape", "dtype")} for o in planned[name]["outputs"]]
        assert facts == [{k: o[k] for k in ("port", "type", "shape", "dtype")} for o in ran[name]["outputs"]]
        assert planned[name]["calls"] == ran[name]["calls"]
    assert planned["s.w"]["outputs"] == []


def test_later_turns_count_as_the_second_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(a: Cell, b: Cell) -> Cell:
        # The first turn costs 100, as one that fills a cache; every other 7.
        METER.flops += 100 if a.value == ord("x") else 7
        METER.peak = max(METER.peak, 50)
        return Cell(5)

    monkeypatch.setitem(machines.TYPES, "m.add", replace(machines.TYPES["m.add"], function=add))
    body = graph(call("l.x", "m.add", a=Var("l", "s"), b="$t"), s="$l.x")
    given = graph(call("t", "m.parse", text="x"), loop("l", {"i": list(range(10))}, body, s="$t"), out="$l:s")
    plan = replace(plan_of(given), libraries=(Metered(), NodeLibrary()))
    found = estimate(plan, memory_bytes=49)
    assert rows(found)["l.x"]["flops"] == 100 + 9 * 7
    assert found["flops"] == 163
    assert (found["peak_bytes"], found["fits"]) == (50, False)
    assert estimate(plan, memory_bytes=50)["fits"] is True
    assert estimate(plan)["fits"] is None


def test_components_are_listed_with_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: machines.Machine, part: str, run: Any) -> None:
        assert run.planning
        assert run.device == "meta"
        run.detail(**{part: {"parameters": 1000, "bytes": 2000, "dtype": "half"}})

    monkeypatch.setattr(machines.Machine, "acquire", acquire)
    monkeypatch.setattr(machines.Machine, "release", lambda self, part: None)
    monkeypatch.setattr(machines.Machine, "read", lambda self, part: None)
    given = graph(
        call("m", "m.machine"),
        call("e", "m.encode", machine="$m:machine"),
        call("p", "m.paint", machine="$m:machine", a="$e"),
        out="$p",
    )
    found = estimate(plan_of(given))
    size = {"parameters": 1000, "bytes": 2000, "dtype": "half"}
    assert found["components"] == [{"holder": "m", "part": part, **size} for part in ("encoder", "painter")]
    assert rows(found)["m"]["parameters"] == 2000
    assert rows(found)["e"]["parameters"] == 0


def test_a_plan_that_cannot_run_fails_by_the_node() -> None:
    given = graph(call("a", "m.const", value=0), call("f", "m.fail", a="$a"), out="$f")
    with pytest.raises(NodeFailed, match="out of luck"):
        estimate(plan_of(given))


def test_planning_ends_state_and_lets_components_go() -> None:
    LOG.clear()
    given = graph(
        call("m", "m.machine"),
        call("e", "m.encode", machine="$m:machine"),
        loop("l", {"i": [1, 2, 3]}, graph(call("l.c", "m.count", a="$e"), o="$l.c")),
        out="$l:o",
    )
    estimate(plan_of(given))
    assert LOG.count(("begin",)) == LOG.count(("end",)) == 1
    assert [e[0] for e in LOG if e[0] in ("acquire", "release")] == ["acquire", "release"]


def runnable(name: str) -> bool:
    """Whether the model that the workflow names lies in this repository and is complete."""
    text = (bundled_workflows() / f"{name}.yaml").read_text()
    folders = [line.split("source:")[1].strip(" }\n") for line in text.splitlines() if "source: ./" in line]
    return bool(folders) and all((bundled_workflows() / f / "model_index.json").exists() for f in folders)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUNDLED if runnable(name)])
def test_a_bundled_workflow_runs_as_it_is_planned(name: str, tmp_path: Path) -> None:
    plan = compile(name, inputs={"steps": 2})
    planned, result = estimate(plan), run(plan, out=tmp_path)
    assert result.status == "done", result.error
    json.dumps(planned)
    ran = rows(dict(result.record))
    for name, row in rows(planned).items():
        assert row["calls"] == ran[name]["calls"] or row["outputs"] == [], name
        made = {output["port"]: output for output in ran[name]["outputs"]}
        for before in row["outputs"]:  # a plan has no pixels to compare: what is null there is left out
            after = made[before["port"]]
            for fact in ("port", "type", "shape", "dtype", "count"):
                assert before.get(fact) == after.get(fact), (name, fact)
    loaded = {
        part: facts["parameters"]
        for row in result.record["nodes"]
        for part, facts in row["detail"].items()
        if isinstance(facts, dict) and "parameters" in facts
    }
    assert loaded == {c["part"]: c["parameters"] for c in planned["components"]}
    assert loaded["transformer"] > 0
    compared = [n for n, row in rows(planned).items() if any("shape" in o for o in row["outputs"])]
    assert len(compared) >= 4
