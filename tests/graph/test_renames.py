"""Nodes that rename parts of what they pass on: the source's own part is acquired, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pytest
from helpers import machines
from helpers.machines import LOG, Machine, call, execute, graph, loop, plan_of
from sgd.graph.compiler.ir import Call, Graph, Ref, Var
from sgd.graph.compiler.passes.parts import components, parts
from sgd.graph.contract.facts import Facts, NodeFacts
from sgd.graph.contract.node import Passes, node

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CastFacts(NodeFacts):
    machine: Facts = Facts()
    part: str | None = None


def names(facts: CastFacts) -> Mapping[str, Mapping[str, str]]:
    return {"machine": {"painter": facts.part}} if facts.part is not None else {}


@node("m.cast", renames=names)
def cast(machine: Annotated[Machine, Passes()], part: str) -> Machine:
    """A machine in which another part paints."""
    return Cast(machine.core, machine.tuned, painter=machine.name(part) if isinstance(machine, Cast) else part)


class Cast(Machine):
    """Its painter has another name in the machine it was made of."""

    def __init__(self, core: machines.Core, tuned: int, painter: str) -> None:
        super().__init__(core, tuned)
        self.painter = painter

    def name(self, part: str) -> str:
        return self.painter if part == "painter" else part

    def acquire(self, part: str, run: Any) -> None:
        super().acquire(self.name(part), run)

    def release(self, part: str) -> None:
        super().release(self.name(part))

    def read(self, part: str) -> None:
        super().read(self.name(part))


@node("m.either")
def either(high: bool, above: Annotated[T, Passes()], below: Annotated[T, Passes()]) -> T:
    """One of two."""
    return above if high else below


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (cast, either):
        monkeypatch.setitem(machines.TYPES, made.node.name, made.node)  # type: ignore[attr-defined]


def wanted(given: Graph, id: str) -> Any:
    (found,) = (item for item, _ in parts(given, {}).walk() if item.id == id)
    assert isinstance(found, Call)
    assert found.wanted is not None
    return found.wanted["machine"]


def paints(machine: str, part: str = "encoder") -> Graph:
    return graph(
        call("m", "m.machine"),
        call("x", "m.cast", machine="$m:machine", part=part),
        call("c", "m.const", value=1),
        call("p", "m.paint", machine=machine, a="$c"),
        out="$p",
    )


def test_the_other_name_is_read_of_the_source() -> None:
    given = paints("$x:machine")
    assert wanted(given, "x") == {"painter"}
    assert wanted(given, "m") == {"encoder"}
    assert components(given, {}) == {"p": {(Ref("m", "machine"), "encoder")}}
    execute(plan_of(given))
    seen = [(entry[0], entry[2]) for entry in LOG if entry[0] in ("acquire", "read", "release")]
    assert seen == [("acquire", "encoder"), ("read", "encoder"), ("release", "encoder")]


def test_parts_that_are_not_renamed_keep_their_name() -> None:
    given = graph(
        call("m", "m.machine"),
        call("x", "m.cast", machine="$m:machine", part="encoder"),
        call("c", "m.const", value=1),
        call("d", "m.decode", machine="$x:machine", a="$c"),
        call("w", "m.whole", machine="$x:machine"),
        out="$d",
        all="$w",
    )
    assert wanted(given, "m") == {"decoder", "*"}
    assert components(given, {})["d"] == {(Ref("m", "machine"), "decoder")}


def test_names_are_followed_one_after_the_other() -> None:
    given = graph(
        call("m", "m.machine"),
        call("x", "m.cast", machine="$m:machine", part="decoder"),
        call("t", "m.tune", machine="$x:machine"),
        call("y", "m.cast", machine="$t:machine", part="painter"),
        call("c", "m.const", value=1),
        call("p", "m.paint", machine="$y:machine", a="$c"),
        out="$p",
    )
    assert wanted(given, "m") == {"decoder"}
    assert components(given, {}) == {"p": {(Ref("m", "machine"), "decoder")}}


def test_a_choice_in_a_loop_holds_both_parts_around_the_loop() -> None:
    body = graph(
        call("l.e", "m.either", high=Var("l", "i"), above="$m:machine", below="$x:machine"),
        call("l.p", "m.paint", machine="$l.e:value", a=Var("l", "s")),
        s="$l.p",
    )
    given = graph(
        call("m", "m.machine"),
        call("x", "m.cast", machine="$m:machine", part="encoder"),
        call("c", "m.const", value=1),
        loop("l", {"i": [True, False, False]}, body, s="$c"),
        out="$l:s",
    )
    assert wanted(given, "m") == {"painter", "encoder"}
    holder = Ref("m", "machine")
    assert components(given, {}) == {"l.p": {(holder, "painter"), (holder, "encoder")}}
    execute(plan_of(given))
    assert [entry[2] for entry in LOG if entry[0] == "read"] == ["painter", "encoder", "encoder"]
    assert sorted(entry[2] for entry in LOG if entry[0] == "acquire") == ["encoder", "painter"]
    assert sorted(entry[2] for entry in LOG if entry[0] == "release") == ["encoder", "painter"]


def test_a_value_renamed_inside_a_loop_is_asked_by_the_name_it_has_there() -> None:
    body = graph(
        call("l.m", "m.machine"),
        call("l.x", "m.cast", machine="$l.m:machine", part="encoder"),
        machines_="$l.x:machine",
    )
    given = graph(
        loop("l", {"i": [1, 2]}, body),
        loop(
            "k",
            {"each": "$l:machines_"},
            graph(
                call("k.c", "m.const", value=1),
                call("k.p", "m.paint", machine=Var("k", "each"), a="$k.c"),
                cell="$k.p",
            ),
        ),
        out="$k:cell",
    )
    assert components(given, {}) == {"k.p": {(Ref("l", "machines_"), "painter")}}
    execute(plan_of(given))
    assert {entry[2] for entry in LOG if entry[0] in ("acquire", "read", "release")} == {"encoder"}
