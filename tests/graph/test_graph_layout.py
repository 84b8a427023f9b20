"""Places in the drawing of a graph: boxes that stand in each other or nowhere on each other, wires between them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from sgd.graph.cli.report.graph_layout import Wire, layout
from sgd.graph.cli.report.graph_tree import Box, tree
from sgd.graph.compiler.compile import check
from sgd.graph.compiler.edge_list import edge_list
from sgd.graph.compiler.ir import Call

WORKFLOWS = sorted(p.stem for p in (Path(__file__).parents[2] / "workflows").glob("*.yaml"))


def drawn(names: dict[str, str], edges: list[tuple[str, str]], most: int = 300) -> tuple[Box, list[Wire]]:
    root = tree(names, edges, most)
    assert root is not None
    return root, layout(root, lambda box: 100.0)


def assert_proper(root: Box, wires: list[Wire]) -> None:
    """Every box is inside its group, and siblings do not touch; wires end at the borders of what they join."""
    boxes = {"": root, **{box.path: box for box in root.walk()}}
    for group in boxes.values():
        inside = list(group.inside.values())
        for box in inside:
            assert group.x <= box.x
            assert box.x + box.width <= group.x + group.width + 1e-6
            assert group.y <= box.y
            assert box.y + box.height <= group.y + group.height + 1e-6
        for a, b in itertools.combinations(inside, 2):
            beside = a.x + a.width <= b.x + 1e-6 or b.x + b.width <= a.x + 1e-6
            assert beside or a.y + a.height <= b.y + 1e-6 or b.y + b.height <= a.y + 1e-6, (a.path, b.path)
    for wire in wires:
        if wire.back:
            continue
        assert [y for _, y in wire.points] == sorted(y for _, y in wire.points)
        if wire.source:
            box, (x, y) = boxes[wire.source], wire.points[0]
            assert box.x <= x <= box.x + box.width
            assert y == pytest.approx(box.y + box.height)
        if wire.target:
            box, (x, y) = boxes[wire.target], wire.points[-1]
            assert box.x <= x <= box.x + box.width
            assert y == pytest.approx(box.y)


def test_a_chain_goes_down() -> None:
    root, wires = drawn({"a": "t", "b": "t", "c": "t"}, [("a.o", "b.i"), ("b.o", "c.i")])
    assert_proper(root, wires)
    tops = [root.inside[name].y for name in "abc"]
    assert tops == sorted(set(tops))
    assert len({box.x for box in root.walk()}) == 1
    assert len(wires) == 2


def test_a_loop_is_a_box_with_a_way_back() -> None:
    names = {"n": "t", "l": "loop", "l.a": "t", "l.b": "t", "z": "t"}
    edges = [("n.o", "l.s"), ("l.s", "l.a.i"), ("l.a.o", "l.b.i"), ("l.b.o", "l.s"), ("l.s", "z.i")]
    root, wires = drawn(names, edges)
    assert_proper(root, wires)
    assert list(root.inside) == ["n", "l", "z"]
    assert list(root.inside["l"].inside) == ["l.a", "l.b"]
    (back,) = [wire for wire in wires if wire.back]
    assert back.points[0][1] > root.inside["l"].inside["l.b"].y
    joined = {(wire.source, wire.target) for wire in wires if not wire.back}
    assert joined == {("n", "l"), ("", "l.a"), ("l.a", "l.b"), ("l.b", ""), ("l", "z")}


def test_one_value_enters_a_group_once() -> None:
    names = {"m": "t", "c": "./c.yaml", "c.a": "t", "c.b": "t"}
    root, wires = drawn(names, [("m.o", "c.a.i"), ("m.o", "c.b.i")])
    assert_proper(root, wires)
    assert sorted((wire.source, wire.target) for wire in wires) == [("", "c.a"), ("", "c.b"), ("m", "c")]


def test_deep_groups_are_closed_when_there_are_too_many_boxes() -> None:
    names = {"c": "f"} | {f"c.n{n}": "t" for n in range(20)} | {"d": "t"}
    root, _ = drawn(names, [("c.n3.o", "d.i")], most=10)
    assert list(root.inside) == ["c", "d"]
    assert root.inside["c"].hidden == 20
    assert tree({f"n{n}": "t" for n in range(20)}, [], 10) is None


def test_edges_of_a_record_that_is_not_ours() -> None:
    """Circles, loops onto themselves, unknown names, and no dot."""
    edges = [("a.o", "b.i"), ("b.o", "a.i"), ("a.o", "a.i"), ("x.o", "a.i"), ("a", "b"), ("", "")]
    assert_proper(*drawn({"a": "t", "b": "t"}, edges))
    assert_proper(*drawn({}, []))


@settings(max_examples=60, deadline=None)
@given(some.data())
def test_every_graph_has_a_proper_drawing(data: some.DataObject) -> None:
    paths: list[str] = []
    for number in range(data.draw(some.integers(1, 14))):
        parent = data.draw(some.sampled_from(["", *paths]))
        paths.append(f"{parent}.n{number}".lstrip("."))
    kinds = {path: data.draw(some.sampled_from(["loop", "./c.yaml"])) for path in paths}
    ends = some.sampled_from(paths)
    edges = data.draw(some.lists(some.tuples(ends, ends), max_size=30))
    assert_proper(*drawn(kinds, [(f"{a}.o", f"{b}.i") for a, b in edges]))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_bundled_workflows_are_drawn(name: str) -> None:
    """Every edge of the file is a way from its source to its target."""
    graph = check(name).graph
    assert graph is not None
    names = {i.id: "t" if isinstance(i, Call) else "loop" for i, _ in graph.walk()} | {
        p: f for p, f, _ in graph.composites
    }
    edges = list(edge_list(graph))
    assert edges
    assert {place.rpartition(".")[0] for edge in edges for place in edge} <= names.keys()
    root, wires = drawn(names, edges)
    assert_proper(root, wires)
    assert {box.path for box in root.walk()} == names.keys()
    reached = {wire.target for wire in wires} - {""}
    assert {target.rpartition(".")[0] for _, target in edges} - {p for p in names if names[p] == "loop"} <= reached
