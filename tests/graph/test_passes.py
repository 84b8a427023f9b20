"""Each pass on small graphs, and the verifier on broken ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.machines import TYPES, arg, call, compiled, execute, graph, loop, numbers_of, plan_of
from sgd.graph.compiler.ir import (
    BrokenGraph,
    Call,
    Const,
    Declared,
    Format,
    Graph,
    Index,
    Input,
    Items,
    Loop,
    Ref,
    Var,
    verify,
)
from sgd.graph.compiler.passes.fold import fold, safe_name
from sgd.graph.compiler.passes.hoist import hoist
from sgd.graph.compiler.passes.lifetimes import lifetimes
from sgd.graph.compiler.passes.merge import merge
from sgd.graph.compiler.passes.order import order
from sgd.graph.compiler.passes.parts import components
from sgd.graph.compiler.passes.prune import live, prune
from sgd.graph.compiler.plan import Acquire, CallStep, LoopStep, Release
from sgd.graph.contract.ports import INT


def good() -> Graph:
    """A graph with a loop that carries, a map in it, and a reader of both."""
    inner = graph(call("l.m.x", "m.add", a=Var("l", "s"), b=Var("l.m", "c")), o="$l.m.x")
    mapped = loop("l.m", {"c": Items((Ref("a", "cell"), Ref("b", "cell")))}, inner)
    body = graph(mapped, call("l.j", "m.join", cells="$l.m:o"), s="$l.j")
    return graph(
        call("a", "m.const", value=1),
        call("b", "m.const", value=2),
        loop("l", {"i": [1, 2]}, body, s="$a"),
        call("z", "m.add", a="$l:s", b="$b"),
        out="$z",
    )


def with_item(given: Graph, item: Call | Loop, key: str | None = None) -> Graph:
    return replace(given, items={**given.items, key or item.id: item})


def with_body(given: Graph, change: Callable[[Graph], Graph]) -> Graph:
    outer = given.items["l"]
    assert isinstance(outer, Loop)
    return with_item(given, replace(outer, body=change(outer.body)))


BREAKS: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "under another name": (lambda g: with_item(g, call("a", "m.const", value=1), "q"), "another name"),
    "twice": (lambda g: with_body(g, lambda b: with_item(b, call("a", "m.const", value=1))), "stands twice"),
    "no such node": (lambda g: with_item(g, call("z", "m.scale", a="$nowhere")), "cannot see"),
    "no such port": (lambda g: with_item(g, call("z", "m.scale", a="$a:colour")), "does not exist"),
    "no such loop port": (lambda g: with_item(g, call("z", "m.scale", a="$l:t")), "does not exist"),
    "into a loop": (lambda g: with_item(g, call("z", "m.scale", a="$l.j")), "cannot see"),
    "foreign variable": (lambda g: with_item(g, call("z", "m.scale", a=Var("l", "s"))), "not around it"),
    "foreign index": (lambda g: with_item(g, call("z", "m.parse", text=Format((Index("l"),)))), "not around it"),
    "unknown variable": (
        lambda g: with_body(g, lambda b: with_item(b, call("l.j", "m.scale", a=Var("l", "q")))),
        "does not have",
    ),
    "unknown parameter": (lambda g: with_item(g, call("z", "m.scale", a="$a", hue=1)), "no parameter hue"),
    "missing parameter": (lambda g: with_item(g, call("z", "m.add", a="$a")), "lacks parameter b"),
    "cycle": (lambda g: with_item(g, call("a", "m.scale", a="$z")), "cycle"),
    "cycle of one": (lambda g: with_item(g, call("z", "m.scale", a="$z")), "cycle"),
    "own output inside": (
        lambda g: with_body(g, lambda b: with_item(b, call("l.j", "m.scale", a="$l:s"))),
        "cycle",
    ),
    "cycle in a body": (
        lambda g: with_body(g, lambda b: with_item(b, call("l.q", "m.add", a="$l.q", b="$l.j"))),
        "cycle",
    ),
    "yields too little": (lambda g: with_body(g, lambda b: replace(b, outputs={})), "yields other names"),
    "carries and maps": (
        lambda g: with_item(g, replace(g.items["l"], mapping=True)),  # type: ignore[arg-type]
        "carry or map",
    ),
    "output of nothing": (lambda g: replace(g, outputs={"out": arg("$nowhere")}), "output out"),
}


def test_verifier_takes_a_good_graph() -> None:
    assert verify(good(), "test") == good()


@pytest.mark.parametrize("name", BREAKS)
def test_verifier_names_the_pass_and_the_fault(name: str) -> None:
    change, message = BREAKS[name]
    with pytest.raises(BrokenGraph, match=message) as caught:
        verify(change(good()), "weave")
    assert "after pass `weave`" in str(caught.value)


def test_verifier_wants_makers_before_readers_once_ordered() -> None:
    items = dict(reversed([*good().items.items()]))
    verify(replace(good(), items=items), "test")
    with pytest.raises(BrokenGraph, match="cannot see yet"):
        verify(replace(good(), items=items), "test", ordered=True)


# fold


def with_inputs(given: Graph, *names: str) -> Graph:
    return replace(given, inputs={n: Declared(n, INT, required=True) for n in names})


def test_fold_puts_values_in_place_and_keeps_inputs_without_one() -> None:
    given = graph(call("a", "m.const", value=Input("n")), call("b", "m.const", value=Input("k")), out="$a")
    folded = fold(with_inputs(given, "n", "k"), {"n": Const(4)})
    assert folded.items["a"].args["value"].source == Const(4)
    assert folded.items["b"].args["value"].source == Input("k")


def test_fold_joins_constant_text_and_lists() -> None:
    text = Format(("take ", Const(3), "-", Const(0.5), "-", Const(True)), safe=False)
    folded = fold(graph(call("a", "m.parse", text=text), out="$a"), {})
    assert folded.items["a"].args["text"].source == Const("take 3-0.5-true")
    over = loop("l", {"n": Items((Const(1), Input("n")))}, graph(o=Var("l", "n")))
    folded = fold(with_inputs(graph(over), "n"), {"n": Const(2)})
    assert folded.items["l"].over["n"].source == Const([1, 2])


def test_fold_leaves_null_to_the_default_but_not_where_a_value_is_needed() -> None:
    folded = fold(graph(call("a", "m.scale", a="$x", by=None), call("x", "m.const", value=None)), {})
    assert "by" not in folded.items["a"].args
    assert folded.items["x"].args["value"].source == Const(None)


@pytest.mark.parametrize(("text", "safe"), [("a/b\\c", "a-b-c"), ("../..", "_"), ("", "_"), ("héllo w", "héllo-w")])
def test_names_of_files_are_made_safe(text: str, safe: str) -> None:
    assert safe_name(text) == safe


# prune


def test_prune_keeps_the_needs_of_outputs_and_effects() -> None:
    given = graph(
        call("a", "m.const", value=1),
        call("dead", "m.scale", a="$a"),
        call("b", "m.const", value=2),
        call("s", "m.save", a="$b"),
        out="$a",
    )
    assert set(prune(given).items) == {"a", "b", "s"}
    assert live(given) == {"a", "b", "s"}


def test_prune_drops_unread_outputs_of_a_map_and_their_makers() -> None:
    body = graph(call("l.x", "m.const", value=Var("l", "n")), call("l.y", "m.scale", a="$l.x"), x="$l.x", y="$l.y")
    kept = prune(graph(loop("l", {"n": [1, 2]}, body), out="$l:x")).items["l"]
    assert isinstance(kept, Loop)
    assert set(kept.body.items) == {"l.x"}
    assert set(kept.body.outputs) == {"x"}


def test_prune_keeps_all_state_since_the_next_turn_reads_it() -> None:
    body = graph(
        call("l.x", "m.add", a=Var("l", "s"), b=Var("l", "t")),
        call("l.y", "m.scale", a=Var("l", "t")),
        s="$l.x",
        t="$l.y",
    )
    given = graph(call("a", "m.const", value=1), loop("l", {"n": [1]}, body, s="$a", t="$a"), out="$l:s")
    kept = prune(given).items["l"]
    assert isinstance(kept, Loop)
    assert set(kept.body.items) == {"l.x", "l.y"}


def test_prune_keeps_a_loop_for_an_effect_in_it() -> None:
    body = graph(call("l.x", "m.const", value=1), call("l.s", "m.save", a="$l.x"))
    assert set(prune(graph(loop("l", {"n": [1]}, body))).items["l"].body.items) == {"l.x", "l.s"}


# hoist


def ids(given: Graph) -> set[str]:
    return set(given.items)


def test_hoist_takes_chains_out_of_nested_loops_at_once() -> None:
    inner = graph(call("l.m.a", "m.const", value=1), call("l.m.b", "m.scale", a="$l.m.a"), o="$l.m.b")
    body = graph(loop("l.m", {"j": [1, 2]}, inner), call("l.j", "m.join", cells="$l.m:o"), o="$l.j")
    done = hoist(graph(loop("l", {"i": [1, 2]}, body), out="$l:o"))
    assert ids(done) == {"l.m.a", "l.m.b", "l.m", "l.j", "l"}
    verify(done, "hoist")


@pytest.mark.parametrize(
    "item",
    [
        call("l.x", "m.const", value=Var("l", "n")),
        call("l.x", "m.parse", text=Format(("at ", Index("l")))),
        call("l.x", "m.count", a="$a"),
        call("l.x", "m.save", a="$a"),
        call("l.x", "m.here", a="$a"),
    ],
    ids=["variable", "index", "state", "effect", "here"],
)
def test_hoist_leaves_calls_that_change_or_must_not_move(item: Call) -> None:
    port = item.type.outputs[0].name
    given = graph(call("a", "m.const", value=1), loop("l", {"n": [1, 2]}, graph(item, o=Ref("l.x", port))), out="$l:o")
    assert ids(hoist(given)) == {"a", "l"}


def test_hoist_stops_at_the_loop_a_node_depends_on() -> None:
    inner = graph(call("l.m.x", "m.const", value=Var("l", "i")), o="$l.m.x")
    body = graph(loop("l.m", {"j": [1, 2]}, inner), o="$l.m:o")
    done = hoist(graph(loop("l", {"i": [1, 2]}, body), out="$l:o")).items["l"]
    assert isinstance(done, Loop)
    assert ids(done.body) == {"l.m.x", "l.m"}


# merge


def test_merge_follows_arguments_and_keeps_every_name() -> None:
    given = graph(
        call("a", "m.const", value=1),
        call("b", "m.const", value=1),
        call("c", "m.scale", a="$a"),
        call("d", "m.scale", a="$b"),
        call("e", "m.add", a="$c", b="$d"),
        out="$e",
    )
    done = merge(given)
    assert ids(done) == {"a", "c", "e"}
    assert done.items["c"].names == ("c", "d")
    assert done.items["e"].args["b"].source == Ref("c", "cell")
    assert numbers_of(execute(plan_of(given))) == {"out": 8}


def test_merge_looks_into_loops_but_not_across_their_siblings() -> None:
    def body(id: str) -> Graph:
        return graph(
            call(f"{id}.k", "m.const", value=7),
            call(f"{id}.x", "m.const", value=Var(id, "n")),
            k=f"${id}.k",
            x=f"${id}.x",
        )

    given = graph(
        call("k", "m.const", value=7), loop("p", {"n": [1]}, body("p")), loop("q", {"n": [1]}, body("q")),
        k="$k", p="$p:x", q="$q:x", r="$p:k",
    )  # fmt: skip
    done = merge(given)
    assert [ids(done.items[n].body) for n in "pq"] == [{"p.x"}, {"q.x"}]
    assert done.items["p"].body.outputs["k"].source == Ref("k", "cell")
    assert done.items["k"].names == ("k", "p.k", "q.k")


@pytest.mark.parametrize("type", ["m.count", "m.save", "m.here"])
def test_merge_leaves_state_effects_and_nodes_that_know_their_place(type: str) -> None:
    given = graph(call("a", "m.const", value=1), call("x", type, a="$a"), call("y", type, a="$a"))
    assert ids(merge(given)) == {"a", "x", "y"}


def test_merge_tells_values_apart_that_only_compare_equal() -> None:
    given = graph(*(call(f"n{n}", "m.const", value=v) for n, v in enumerate([1, 1.0, True, "1"])))
    assert len(merge(given).items) == 4


def test_merge_tells_texts_apart_that_are_relative_to_other_folders() -> None:
    def text(folder: str) -> Format:
        return Format((Var("l", "n"), ".png"), base=Path(folder))

    body = graph(call("l.x", "m.parse", text=text("here")), call("l.y", "m.parse", text=text("there")))
    done = merge(graph(loop("l", {"n": ["a"]}, body))).items["l"]
    assert isinstance(done, Loop)
    assert ids(done.body) == {"l.x", "l.y"}


# order and lifetimes


def many_prompts() -> Graph:
    """Encode in one map, paint in a second, decode in a third: written in the least helpful order."""
    decode = graph(call("d.x", "m.decode", machine="$m:machine", a=Var("d", "c")), o="$d.x")
    step = graph(call("p.s.x", "m.paint", machine="$m:machine", a=Var("p.s", "s")), s="$p.s.x")
    paint = graph(loop("p.s", {"i": [1, 2]}, step, s=Var("p", "c")), o="$p.s:s")
    encode = graph(call("e.x", "m.encode", machine="$m:machine", text=Var("e", "t")), o="$e.x")
    return graph(
        loop("d", {"c": "$p:o"}, decode),
        loop("p", {"c": "$e:o"}, paint),
        loop("e", {"t": ["one", "two", "three"]}, encode),
        call("m", "m.machine"),
        out="$d:o",
    )


def flat(steps: tuple[object, ...]) -> list[str]:
    found = []
    for step in steps:
        if isinstance(step, Acquire | Release):
            found.append(f"{'+' if isinstance(step, Acquire) else '-'}{step.part}")
        else:
            assert isinstance(step, CallStep | LoopStep)
            found.append(step.call.id if isinstance(step, CallStep) else step.loop.id)
    return found


def test_the_encoder_is_gone_before_the_painter_comes() -> None:
    plan = plan_of(many_prompts())
    assert flat(plan.steps) == [
        "m",
        "+encoder",
        "e",
        "-encoder",
        "+painter",
        "p",
        "-painter",
        "+decoder",
        "d",
        "-decoder",
    ]


def test_readers_of_one_component_stand_together() -> None:
    given = graph(
        call("m", "m.machine"),
        call("e1", "m.encode", machine="$m:machine", text="a"),
        call("p1", "m.paint", machine="$m:machine", a="$e1"),
        call("e2", "m.encode", machine="$m:machine", text="b"),
        call("p2", "m.paint", machine="$m:machine", a="$e2"),
        call("z", "m.add", a="$p1", b="$p2"),
        out="$z",
    )
    assert flat(plan_of(given).steps) == [
        "m",
        "+encoder",
        "e1",
        "e2",
        "-encoder",
        "+painter",
        "p1",
        "p2",
        "-painter",
        "z",
    ]


def test_order_follows_the_file_where_nothing_else_decides() -> None:
    given = graph(*(call(n, "m.const", value=k) for k, n in enumerate("dacb")))
    assert list(order(given, {}).items) == list("dacb")


def test_a_value_that_only_starts_a_loop_is_freed_when_it_has_begun() -> None:
    given = graph(
        call("a", "m.const", value=1),
        call("b", "m.const", value=2),
        loop("l", {"i": [1, 2]}, graph(call("l.x", "m.add", a=Var("l", "s"), b="$b"), s="$l.x"), s="$a"),
        out="$l:s",
    )
    done, needs = compiled(given)
    [*_, step] = lifetimes(done, needs)
    assert isinstance(step, LoopStep)
    assert step.free_first == (Ref("a", "cell"),)
    assert step.free == (Ref("b", "cell"),)


def test_a_start_that_the_body_reads_too_stays_for_all_turns() -> None:
    body = graph(call("l.x", "m.add", a=Var("l", "s"), b="$a"), s="$l.x")
    given = graph(call("a", "m.const", value=1), loop("l", {"i": [1, 2]}, body, s="$a"), out="$l:s")
    done, needs = compiled(given)
    [*_, step] = lifetimes(done, needs)
    assert isinstance(step, LoopStep)
    assert step.free_first == ()
    assert numbers_of(execute(plan_of(given))) == {"out": 13}


def test_values_of_outputs_are_never_freed() -> None:
    steps = plan_of(graph(call("a", "m.const", value=1), call("b", "m.scale", a="$a"), x="$a", y="$b")).steps
    assert [step.free for step in steps if isinstance(step, CallStep)] == [(), ()]


def test_components_of_machines_that_a_loop_made_are_found_in_its_list() -> None:
    making = loop("l", {"n": ["x", "y"]}, graph(call("l.m", "m.machine", name=Var("l", "n")), ms="$l.m:machine"))
    using = graph(call("u.e", "m.encode", machine=Var("u", "m"), text="t"), o="$u.e")
    given = graph(making, loop("u", {"m": "$l:ms"}, using), call("f", "m.fleet", machines="$l:ms"), out="$u:o", f="$f")
    assert components(given, {}) == {
        "u.e": {(Ref("l", "ms"), "encoder")},
        "f": {(Ref("l", "ms"), "painter")},
    }
    assert numbers_of(execute(plan_of(given))) == {"out": [116, 116], "f": 2}


def test_every_pass_keeps_ids_and_types() -> None:
    done, _ = compiled(many_prompts())
    assert {i.id for i, _ in done.walk()} == {i.id for i, _ in many_prompts().walk()}
    assert all(i.type is TYPES[i.type.name] for i in done.calls())
