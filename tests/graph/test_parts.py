"""parts: what of each value is read, through loops, state and nodes that pass a value on."""

from __future__ import annotations

from typing import Any

from helpers.machines import LOG, call, compiled, execute, graph, loop, plan_of
from sgd.graph.compiler.ir import Call, Graph, Items, Ref, Var
from sgd.graph.compiler.passes.parts import components, demands, parts


def wanted(given: Graph, id: str) -> Any:
    items = {item.id: item for item, _ in parts(given, {}).walk()}
    found = items[id]
    assert isinstance(found, Call)
    return found.wanted


def test_readers_add_up() -> None:
    given = graph(
        call("m", "m.machine"),
        call("e", "m.encode", machine="$m:machine"),
        call("p", "m.paint", machine="$m:machine", a="$e"),
        out="$p",
    )
    assert wanted(given, "m") == {"machine": {"encoder", "painter"}}
    assert wanted(given, "e") == {"cell": {"*"}}


def test_no_part_is_wanted_of_an_output_without_readers() -> None:
    given = graph(call("m", "m.machine"), call("s", "m.split", a="$c"), call("c", "m.const", value=1), out="$s:low")
    assert wanted(given, "m") == {"machine": frozenset()}
    assert wanted(given, "s") == {"low": {"*"}, "high": frozenset()}


def test_parts_read_of_a_passed_on_value_are_read_of_its_source_only() -> None:
    given = graph(
        call("m", "m.machine"),
        call("t", "m.tune", machine="$m:machine"),
        call("u", "m.tune", machine="$t:machine"),
        call("p", "m.decode", machine="$u:machine", a="$c"),
        call("c", "m.const", value=1),
        out="$p",
    )
    assert wanted(given, "m") == {"machine": {"decoder"}}
    assert {id: held for id, held in components(given, {}).items() if held} == {"p": {(Ref("m", "machine"), "decoder")}}


def test_demand_goes_round_a_loop_until_it_stops_growing() -> None:
    # The state's first value is read by the first turn only as `a`, later turns hand `b` into it.
    body = graph(
        call("l.e", "m.encode", machine=Var("l", "b")),
        call("l.t", "m.tune", machine=Var("l", "a")),
        a=Var("l", "b"),
        b="$l.t:machine",
    )
    given = graph(
        call("m", "m.machine", name="m"),
        call("n", "m.machine", name="n"),
        loop("l", {"i": [1, 2, 3]}, body, a="$m:machine", b="$n:machine"),
        call("d", "m.decode", machine="$l:a", a="$c"),
        call("c", "m.const", value=1),
        out="$d",
    )
    both = {"machine": {"encoder", "decoder"}}
    assert wanted(given, "m") == both
    assert wanted(given, "n") == both
    holders = {(Ref(n, "machine"), "encoder") for n in "mn"}
    assert components(given, {})["l.e"] == holders


def test_demand_goes_through_lists_and_maps() -> None:
    body = graph(call("l.e", "m.encode", machine=Var("l", "m")), o="$l.e")
    both = Items((Ref("m", "machine"), Ref("n", "machine")))
    given = graph(
        call("m", "m.machine", name="m"), call("n", "m.machine", name="n"), loop("l", {"m": both}, body), out="$l:o"
    )
    assert wanted(given, "m") == wanted(given, "n") == {"machine": {"encoder"}}
    execute(plan_of(given))
    assert {entry for entry in LOG if entry[0] == "read"} == {("read", "m", "encoder"), ("read", "n", "encoder")}


def test_a_value_read_whole_brings_in_every_part() -> None:
    given = graph(call("m", "m.machine"), call("w", "m.whole", machine="$m:machine"), out="$w")
    execute(plan_of(given))
    assert [e[2] for e in LOG if e[0] == "acquire"] == ["encoder", "painter", "decoder"]
    assert sorted(e[2] for e in LOG if e[0] == "release") == ["decoder", "encoder", "painter"]


def test_a_part_read_alone_and_with_the_whole_is_counted_twice() -> None:
    given = graph(
        call("m", "m.machine"),
        call("e", "m.encode", machine="$m:machine"),
        call("w", "m.whole", machine="$m:machine"),
        call("p", "m.paint", machine="$m:machine", a="$e"),
        a="$p",
        b="$w",
    )
    execute(plan_of(given))
    for part in ("encoder", "painter", "decoder"):
        names = [e[0] for e in LOG if e[2:] == (part,)]
        assert names.count("acquire") == names.count("release") >= 1


def test_workflow_outputs_read_the_whole() -> None:
    assert demands(graph(call("m", "m.machine"), out="$m:machine"), {})[Ref("m", "machine")] == {"*"}


def test_a_merged_node_gets_the_wanted_parts_of_all_readers() -> None:
    given = graph(
        call("m", "m.machine"),
        call("w", "m.wanted", machine="$m:machine"),
        call("v", "m.wanted", machine="$m:machine"),
        call("e", "m.encode", machine="$w:machine"),
        call("p", "m.paint", machine="$v:machine", a="$e"),
        out="$p",
    )
    execute(plan_of(given))
    assert [e for e in LOG if e[0] == "wanted"] == [("wanted", "encoder", "painter")]
    done, _ = compiled(given)
    assert done.items["w"].names == ("w", "v")
