"""The record: a row for everything in the file, what rows sum up, and what JSON can hold."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import machines
from helpers.machines import Cell, call, graph, loop, plan_of
from jsonschema import Draft202012Validator, ValidationError
from sgd.graph.compiler.compile import compile
from sgd.graph.compiler.ir import Format, Graph, Index, Var
from sgd.graph.compiler.plan import Plan
from sgd.graph.contract.ports import Port
from sgd.graph.runtime.clock import ROWS
from sgd.graph.runtime.context import Context
from sgd.graph.runtime.node_rows import node_rows
from sgd.graph.runtime.observers.profile import Row
from sgd.graph.runtime.record import Recorder, environment
from sgd.graph.runtime.record_file import RecordFile
from sgd.graph.runtime.record_values import clean, plain_output
from sgd.graph.runtime.run import run

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))


def recorded(given: Graph, out: Path, **options: Any) -> dict[str, Any]:
    run(plan_of(given), out=out, **options)
    record = json.loads((out / "run.json").read_text())
    SCHEMA.validate(record)
    return record


def rows(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in record["nodes"]}


def test_every_item_has_a_row_and_loops_sum_their_rows(tmp_path: Path) -> None:
    body = graph(
        call("l.fixed", "m.const", value=5),
        call("l.x", "m.add", a=Var("l", "c"), b="$l.fixed"),
        call("l.same", "m.add", a=Var("l", "c"), b="$l.fixed"),
        call("l.y", "m.add", a="$l.x", b="$l.same"),
        o="$l.y",
    )
    given = graph(
        call("cs", "m.cells"),
        loop("l", {"c": "$cs"}, body),
        call("dead", "m.const", value=9),
        call("s", "m.split", a="$dead"),
        out="$l:o",
    )
    record = recorded(given, tmp_path)
    found = rows(record)
    assert list(found) == [*(item.id for item, _ in given.walk()), *ROWS]
    assert {n: r["calls"] for n, r in found.items() if r["type"]} == {
        "cs": 1, "l": 7, "l.fixed": 1, "l.x": 3, "l.same": 0, "l.y": 3, "dead": 0, "s": 0,
    }  # fmt: skip
    assert found["l.same"]["detail"] == {"same_as": "l.x"}
    inside = [r["seconds"] for n, r in found.items() if n.startswith("l.")]
    assert found["l"]["seconds"] == pytest.approx(sum(inside))
    assert found["l"]["peak_bytes"] == max(
        r["peak_bytes"] for n, r in found.items() if n.startswith("l.") and r["calls"]
    )
    assert found["cs"]["outputs"] == [
        {"port": "cell", "type": "list[Cell]", "count": 3, "shape": [1], "dtype": "whole", "value": 0}
    ]
    assert found["l"]["type"] == "loop"
    top = [r for n, r in found.items() if "." not in n]
    assert sum(r["share"] for r in top) == pytest.approx(1 - record["unaccounted_seconds"] / record["seconds"])
    assert sum(r["seconds"] for r in top) == pytest.approx(record["seconds"] - record["unaccounted_seconds"])


def test_turns_have_the_facts_of_their_variables(tmp_path: Path) -> None:
    inner = graph(call("l.m.x", "m.scale", a=Var("l.m", "c")), o="$l.m.x")
    body = graph(
        loop("l.m", {"c": "$l.cs"}, inner),
        call("l.cs", "m.cells", count=Var("l", "i")),
        call("l.t", "m.parse", text=Format((Index("l"),))),
        o="$l.m:o",
        p="$l.t",
    )
    record = recorded(graph(loop("l", {"i": [2, 1]}, body), out="$l:o", p="$l:p"), tmp_path)
    assert all(step.pop("device_seconds") is None for step in record["steps"])
    starts = [step.pop("start") for step in record["steps"]]
    assert starts[2] < starts[0] < starts[1] < starts[4] < starts[3]
    seconds = [step.pop("seconds") for step in record["steps"]]
    cell = {"shape": [1], "dtype": "whole"}
    assert record["steps"] == [
        {"loop": "l.m", "turn": 0, **cell, "value": 0},
        {"loop": "l.m", "turn": 1, **cell, "value": 1},
        {"loop": "l", "turn": 0},
        {"loop": "l.m", "turn": 0, **cell, "value": 0},
        {"loop": "l", "turn": 1},
    ]
    assert all(s >= 0 for s in seconds)


def test_composites_have_rows_and_merged_nodes_say_with_whom(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text(
        "sgd: 1\ninputs: {n: {type: int}}\nnodes:\n  one: {uses: m.const, with: {value: $n}}\n"
        "  two: {uses: m.scale, with: {a: $one}}\noutputs: {o: $two}\n"
    )
    (tmp_path / "w.yaml").write_text(
        "sgd: 1\nname: w\ninputs: {k: {type: int, default: 2}}\nnodes:\n  p: {uses: ./part.yaml, with: {n: $k}}\n"
        "  q: {uses: ./part.yaml, with: {n: 2}}\n  z: {uses: m.add, with: {a: $p, b: $q}}\noutputs: {z: $z}\n"
    )
    plan = compile(tmp_path / "w.yaml", set={"p.two.by": 2}, library=machines.library())
    run(plan, out=tmp_path / "out")
    record = json.loads((tmp_path / "out/run.json").read_text())
    SCHEMA.validate(record)
    found = rows(record)
    assert {n: (r["type"], r["calls"]) for n, r in found.items() if r["type"]} == {
        "p": ("./part.yaml", 2), "p.one": ("m.const", 1), "p.two": ("m.scale", 1),
        "q": ("./part.yaml", 1), "q.one": ("m.const", 0), "q.two": ("m.scale", 1), "z": ("m.add", 1),
    }  # fmt: skip
    assert found["q.one"]["detail"] == {"same_as": "p.one"}
    assert record["inputs"] == {"k": 2}
    assert record["set"] == {"p.two.by": 2}
    assert record["workflow"]["name"] == "w"
    assert len(record["workflow"]["sha256"]) == 64
    assert record["outputs"]["z"]["type"] == "Cell"


def test_phases_tell_load_and_save_from_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: machines.Machine, part: str, run: Any) -> None:
        run.detail(**{part: {"bytes": 12}})
        time.sleep(0.05)

    monkeypatch.setattr(machines.Machine, "acquire", acquire)
    monkeypatch.setattr(machines.Machine, "release", lambda self, part: None)
    monkeypatch.setattr(machines.Machine, "read", lambda self, part: time.sleep(0.03))
    given = graph(
        call("m", "m.machine"), call("e", "m.encode", machine="$m:machine"), call("s", "m.save", a="$e"), out="$s:value"
    )
    record = recorded(given, tmp_path)
    phases, found = record["phases"], rows(record)
    assert 0.05 <= phases["load"] < 0.2
    assert 0.03 <= found["e"]["seconds"] < 0.05 + 0.03
    assert phases["save"] == found["s"]["seconds"]
    assert found["m"]["detail"]["encoder"] == {"bytes": 12}
    assert found["m"]["detail"]["loaded"]["encoder"] == pytest.approx(phases["load"])
    assert sum(phases.values()) == pytest.approx(record["seconds"], abs=1e-6)
    assert found["(load)"]["seconds"] == phases["load"]
    assert found["(load)"]["bytes"] == 12
    assert record["unaccounted_seconds"] == pytest.approx(
        phases["run"] - sum(found[n]["seconds"] for n in ("m", "e", "(other)")), abs=1e-6
    )
    assert [(e["name"], e["part"]) for e in record["timeline"] if e["kind"] == "load"] == [("m", "encoder")]


DECISION = {
    "gate": "gate",
    "component": "transformer",
    "step": 0,
    "branch": "positive",
    "computed": True,
    "distance": None,
    "threshold": 0.1,
    "reason": "first",
}


def test_events_are_lists_of_their_kind_and_replace_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    for kind in ("gate", "trace", "node", "output", "gate"):
        recorder.event(None, kind, {"n": len(recorder.events)} | (DECISION if kind == "gate" else {}))
    plan = plan_of(graph(call("a", "m.const", value=1), out="$a"))
    context = Context(tmp_path, recorder)
    record = recorder.record(plan, context, recorder.clock.now(), "done", {}, None)
    SCHEMA.validate(record)
    assert record["gates"] == [{"n": 0} | DECISION, {"n": 4} | DECISION]
    assert record["traces"] == [{"n": 1}]
    assert record["node_events"] == [{"n": 2}]
    assert record["output_events"] == [{"n": 3}]
    assert [row["name"] for row in record["nodes"]] == ["a", *ROWS]


@dataclass(eq=False)
class Odd(Port):
    """Its facts are not what JSON holds."""

    given: Any

    def facts(self) -> dict[str, Any]:
        return self.given


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (Path("a/b"), "a/b"),
        ({1: (2, {3})}, {"1": [2, [3]]}),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        (None, None),
        (True, True),
        ("é\ud800", "é\ud800"),
    ],
)
def test_everything_becomes_json(tmp_path: Path, value: Any, expected: Any) -> None:
    assert clean(value) == expected
    RecordFile({"value": clean(value)}, tmp_path / "x.json").write({})
    assert json.loads((tmp_path / "x.json").read_text()) == {"value": expected}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_record_that_changes_is_written_as_if_it_were_new(tmp_path: Path) -> None:
    record = {"a": {"b": [1, {"c": "two\nlines"}], "d": {}}, "seconds": 1.0, "list": [], "e": None}
    file = RecordFile(record, tmp_path / "x.json")
    changed = {"seconds": 2.5, "new": [{"f": 1}]}
    file.write(changed)
    assert (tmp_path / "x.json").read_text() == json.dumps(record | changed, indent=1) + "\n"


def test_outputs_are_relative_to_the_folder_where_they_are_in_it(tmp_path: Path) -> None:
    context = Context(tmp_path / "out", Recorder())
    inside, outside = tmp_path / "out" / "a.txt", tmp_path / "b.txt"
    assert plain_output([inside, outside, 3, None], context) == ["a.txt", str(outside), 3, None]
    assert plain_output(Odd({"path": str(inside)}), context) == "a.txt"
    assert plain_output(Odd({"n": 1}), context) == {"type": "Odd", "n": 1}


def test_facts_that_fail_cost_a_line_and_not_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "facts", lambda self: 1 / 0)
    record = recorded(graph(call("a", "m.const", value=1), out="$a"), tmp_path)
    said = {"facts": "failed: ZeroDivisionError: division by zero"}
    assert record["outputs"] == {"out": {"type": "Cell", **said}}
    assert record["nodes"][0]["outputs"] == [{**said, "port": "cell", "type": "Cell"}]


def test_a_library_that_is_half_imported_does_not_cost_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    assert environment("cuda", ["torch"])["device"] == "cuda"


def test_names_that_begin_alike_are_not_one_in_the_other() -> None:
    plan = Plan("t", (), {}, names={"a": "loop", "a.x": "m.const", "ab": "loop", "ab.x": "m.const"})
    done = node_rows(plan, {"a.x": Row(1, seconds=1.0), "ab.x": Row(2, seconds=4.0, peak_bytes=3)}, 10.0)
    assert [(r["name"], r["calls"], r["seconds"], r["share"], r["peak_bytes"]) for r in done] == [
        ("a", 1, 1.0, 0.1, None),
        ("a.x", 1, 1.0, 0.1, None),
        ("ab", 2, 4.0, 0.4, 3),
        ("ab.x", 2, 4.0, 0.4, 3),
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("phases"),
        lambda r: r.update(status="perhaps"),
        lambda r: r.update(record=2),
        lambda r: r["nodes"][0].pop("share"),
        lambda r: r["nodes"][0].update(calls=-1),
        lambda r: r["nodes"][0].update(ceiling={"kind": "matrix", "fraction": 0.5}),
        lambda r: r["timeline"][0].update(kind="pause"),
        lambda r: r["memory"].append({"bytes": 1}),
        lambda r: r["phases"].update(wait=1.0),
        lambda r: r.update(status="failed"),
        lambda r: r.update(error="it is done all the same"),
        lambda r: r["steps"].append({"loop": "l"}),
    ],
)
def test_the_schema_refuses_other_json_than_records(tmp_path: Path, spoil: Any) -> None:
    record = recorded(graph(call("a", "m.const", value=1), out="$a"), tmp_path)
    spoil(record)
    with pytest.raises(ValidationError):
        SCHEMA.validate(record)
