"""The one immutable graph that the passes rewrite, and its verifier.

A graph holds calls and loops under their paths in the file (`loop.node`; paths are unique in the whole
program and survive every rewrite), and outputs. A loop's body is a graph whose outputs are the loop's `yield`.
Expansion has inlined the composites; their names remain as prefixes of paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import networkx as nx

from ..contract.node import NodeType
from ..contract.ports import Type
from ..contract.source_spans import Span


@dataclass(frozen=True)
class Const:
    """A literal. A path in it is relative to the folder `base`."""

    value: Any
    base: Path | None = field(default=None, compare=False)


BROKEN = Const(object())
"""A source that could not be resolved; the rest of the graph can still be checked."""


@dataclass(frozen=True)
class Ref:
    """An output port of a call or loop."""

    node: str
    port: str


@dataclass(frozen=True)
class Input:
    """A workflow input that has no value yet."""

    name: str


@dataclass(frozen=True)
class Var:
    """A loop variable or carried state of an enclosing loop."""

    loop: str
    name: str


@dataclass(frozen=True)
class Index:
    """The number of the current iteration of an enclosing loop, from 0 (`${index}`)."""

    loop: str


@dataclass(frozen=True)
class Format:
    """A string with interpolated values. `safe`: the values become parts of a file name."""

    parts: tuple[str | Source, ...]
    safe: bool = False
    base: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Items:
    """A list in a file with references among its items. `spans` holds the places of the items."""

    items: tuple[Source, ...]
    spans: tuple[Span, ...] = field(default=(), compare=False)


Source = Const | Ref | Input | Var | Index | Format | Items


@dataclass(frozen=True)
class Arg:
    """A source with its place in the file and its text there.

    `given` names the source of a value that does not come from the file: an input or `--set`. `hint` is a help line for
    the case that the value is wrong.
    """

    source: Source
    span: Span | None = None
    text: str = ""
    given: str = ""
    hint: str = field(default="", compare=False)


@dataclass(frozen=True)
class Call:
    """One use of a node type.

    Attributes:
        id: Its path in the file.
        args: Arguments by parameter, without parameters that keep their default.
        names: The paths of all calls that this call replaces; several after the pass `merge`.
        wanted: For each output port, the parts that are read (`*`: the whole value); None before the pass `parts`.
        given: The `--set` that exchanged the type of the file; empty if none did.
    """

    id: str
    type: NodeType
    args: Mapping[str, Arg]
    span: Span | None = None
    names: tuple[str, ...] = ()
    wanted: Mapping[str, frozenset[str]] | None = None
    given: str = field(default="", compare=False)

    @property
    def sources(self) -> Iterator[Arg]:
        yield from self.args.values()


@dataclass(frozen=True)
class Loop:
    """A loop. With `carry`, it passes state from one iteration to the next. Without, it maps: its outputs are lists."""

    id: str
    over: Mapping[str, Arg]
    carry: Mapping[str, Arg]
    body: Graph
    span: Span | None = None
    mapping: bool = False

    @property
    def sources(self) -> Iterator[Arg]:
        yield from self.over.values()
        yield from self.carry.values()


Item = Call | Loop


@dataclass(frozen=True)
class Declared:
    """A workflow input as declared; bounds are inclusive."""

    name: str
    type: Type
    required: bool
    default: Const | None = None
    min: float | None = None
    max: float | None = None
    about: str = ""
    span: Span | None = None


@dataclass(frozen=True)
class Constraint:
    """A composite's declared input: a value must be of its type and within its bounds."""

    subject: str
    declared: Declared
    arg: Arg


@dataclass(frozen=True)
class Graph:
    """Items by id, in file order before the pass `order`, and outputs. The root also has inputs and constraints.

    `composites` holds path, file and place of each composite in the file. `exposed` maps a node output inside a
    composite to the composites that offer it, each with the text of a reference.
    """

    items: Mapping[str, Item]
    outputs: Mapping[str, Arg] = field(default_factory=dict)
    inputs: Mapping[str, Declared] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    name: str = ""
    composites: tuple[tuple[str, str, Span], ...] = ()
    exposed: Mapping[Ref, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def walk(self) -> Iterator[tuple[Item, tuple[Loop, ...]]]:
        """Every item with the loops around it, outermost first; loops before the items in them."""
        yield from _walk(self, ())

    def calls(self) -> Iterator[Call]:
        return (item for item, _ in self.walk() if isinstance(item, Call))


def _walk(graph: Graph, around: tuple[Loop, ...]) -> Iterator[tuple[Item, tuple[Loop, ...]]]:
    for item in graph.items.values():
        yield item, around
        if isinstance(item, Loop):
            yield from _walk(item.body, (*around, item))


def leaves(source: Source) -> Iterator[Source]:
    """The source itself, or the sources that are interpolated or listed in it."""
    if isinstance(source, Format):
        for part in source.parts:
            if not isinstance(part, str):
                yield from leaves(part)
    elif isinstance(source, Items):
        for part in source.items:
            yield from leaves(part)
    else:
        yield source


def edges(args: Iterable[Arg]) -> Iterator[Ref | Var]:
    """The references among the leaves of arguments."""
    for arg in args:
        for leaf in leaves(arg.source):
            if isinstance(leaf, Ref | Var):
                yield leaf


def used(item: Item) -> Iterator[Source]:
    """Every leaf that an item reads; for a loop also the leaves that its body reads."""
    for arg in item.sources:
        yield from leaves(arg.source)
    if isinstance(item, Loop):
        yield from used_by_graph(item.body)


def used_by_graph(graph: Graph) -> Iterator[Source]:
    for item in graph.items.values():
        yield from used(item)
    for arg in graph.outputs.values():
        yield from leaves(arg.source)


def dependencies(graph: Graph) -> nx.DiGraph:
    """The items of one level as a networkx graph: an edge from each item to those that read it."""
    result: nx.DiGraph[str] = nx.DiGraph()
    result.add_nodes_from(graph.items)
    for id, item in graph.items.items():
        for leaf in used(item):
            if isinstance(leaf, Ref) and leaf.node in graph.items:
                result.add_edge(leaf.node, id)
    return result


def rewrite_source(source: Source, change: Callable[[Source], Source]) -> Source:
    """Apply `change` to every leaf, then to the whole source."""
    if isinstance(source, Format):
        parts = tuple(p if isinstance(p, str) else rewrite_source(p, change) for p in source.parts)
        return change(replace(source, parts=parts))
    if isinstance(source, Items):
        return change(replace(source, items=tuple(rewrite_source(p, change) for p in source.items)))
    return change(source)


def rewrite(graph: Graph, change: Callable[[Source], Source]) -> Graph:
    """Apply `change` to every source of a graph, and return the new graph."""

    def args(given: Mapping[str, Arg]) -> dict[str, Arg]:
        return {n: replace(a, source=rewrite_source(a.source, change)) for n, a in given.items()}

    items: dict[str, Item] = {}
    for id, item in graph.items.items():
        if isinstance(item, Call):
            items[id] = replace(item, args=args(item.args))
        else:
            items[id] = replace(item, over=args(item.over), carry=args(item.carry), body=rewrite(item.body, change))
    constraints = tuple(
        replace(c, arg=replace(c.arg, source=rewrite_source(c.arg.source, change))) for c in graph.constraints
    )
    return replace(graph, items=items, outputs=args(graph.outputs), constraints=constraints)


def has_effect(item: Item) -> bool:
    return item.type.effect if isinstance(item, Call) else any(map(has_effect, item.body.items.values()))


def output_ports(item: Item) -> tuple[str, ...]:
    return tuple(o.name for o in item.type.outputs) if isinstance(item, Call) else tuple(item.body.outputs)


class BrokenGraph(AssertionError):
    """A pass broke an invariant of the graph: a fault of sgd, not of the user."""


def verify(graph: Graph, after: str, ordered: bool = False) -> Graph:
    """Check every invariant of a well-formed graph and return it.

    Raises:
        BrokenGraph: If an invariant does not hold; the message names the pass.
    """
    ids: set[str] = set()

    def fail(message: str) -> None:
        raise BrokenGraph(f"after pass `{after}`: {message}")

    def region(graph: Graph, visible: dict[str, Item], loops: dict[str, Loop]) -> None:
        for id, item in graph.items.items():
            if id != item.id or id in ids:
                fail(f"{id} stands twice or under another name")
            ids.add(id)
        inside = {**visible, **graph.items}
        seen = dict(visible)
        for item in graph.items.values():
            for arg in item.sources:
                check(arg.source, seen if ordered else inside, loops, item.id)
            if isinstance(item, Loop):
                if item.mapping == bool(item.carry):
                    fail(f"loop {item.id} must either carry or map")
                if item.carry and set(item.carry) != set(item.body.outputs):
                    fail(f"loop {item.id} yields other names than it carries")
                region(item.body, seen if ordered else inside, {**loops, item.id: item})
            else:
                for name in item.args:
                    if name not in item.type.inputs:
                        fail(f"{item.id} has no parameter {name}")
                for name, parameter in item.type.inputs.items():
                    if parameter.required and name not in item.args:
                        fail(f"{item.id} lacks parameter {name}")
            seen[item.id] = item
        for name, arg in graph.outputs.items():
            check(arg.source, inside, loops, f"output {name}")
        order = dependencies(graph)
        if not nx.is_directed_acyclic_graph(order):
            fail(f"there is a cycle: {nx.find_cycle(order)}")

    def check(source: Source, visible: Mapping[str, Item], loops: Mapping[str, Loop], reader: str) -> None:
        for leaf in leaves(source):
            if isinstance(leaf, Ref):
                if leaf.node not in visible:
                    fail(f"{reader} reads {leaf.node}, which it cannot see{' yet' if ordered else ''}")
                elif leaf.port not in output_ports(visible[leaf.node]):
                    fail(f"{reader} reads {leaf.node}.{leaf.port}, which does not exist")
            elif isinstance(leaf, Var | Index):
                loop = loops.get(leaf.loop)
                if loop is None:
                    fail(f"{reader} reads a variable of loop {leaf.loop}, which is not around it")
                elif isinstance(leaf, Var) and leaf.name not in {**loop.over, **loop.carry}:
                    fail(f"{reader} reads {leaf.name}, which loop {leaf.loop} does not have")

    region(graph, {}, {})
    return graph
