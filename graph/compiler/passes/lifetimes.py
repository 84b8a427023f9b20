"""lifetimes: turn an ordered graph into the steps of a plan.

Every value is freed after its last reader. Every component is acquired before its first reader and released after its
last.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir import Call, Graph, Item, Ref, Var, edges, output_ports, used, used_by_graph
from ..plan import Acquire, CallStep, LoopStep, Release, Step, Value
from .order import Components, needed


def lifetimes(graph: Graph, components: Components) -> tuple[Step, ...]:
    """The steps of an ordered graph. Values that outputs name are kept."""
    kept = set(edges(graph.outputs.values()))
    return _level(graph, components, kept, ())


def _level(graph: Graph, components: Components, kept: set[Value], own: tuple[Var, ...]) -> tuple[Step, ...]:
    """The steps of one level. If it is the body of a loop, `own` holds the variables of the loop, to free them too."""
    ids = list(graph.items)
    last = _last_readers(graph, own, components)
    after: dict[str, list[Value]] = {id: [] for id in ids}
    for value, reader in last.items():
        if value not in kept:
            after[reader].append(value)
    first_use, last_use = _component_spans(graph, components)
    steps: list[Step] = []
    for id, item in graph.items.items():
        for part in first_use.get(id, ()):
            steps.append(Acquire(*part, tuple(c.id for c in graph.calls() if part in components.get(c.id, ()))))
        free = tuple(after[id])
        if isinstance(item, Call):
            steps.append(CallStep(item, free))
        else:
            started = set(edges(item.sources))
            inside = {leaf for leaf in used_by_graph(item.body) if isinstance(leaf, Ref | Var)}
            first = tuple(v for v in free if v in started and v not in inside)
            variables = tuple(Var(id, name) for name in (*item.over, *item.carry))
            yields = set(edges(item.body.outputs.values()))
            body = _level(item.body, components, yields, variables)
            steps.append(LoopStep(item, body, first, tuple(v for v in free if v not in first)))
        for part in last_use.get(id, ()):
            steps.append(Release(*part))
    return tuple(steps)


def _last_readers(graph: Graph, own: tuple[Var, ...], components: Components) -> dict[Value, str]:
    """Find the last reader of each value of this level; for an unread value, the item that outputs it.

    A call that needs a component of a value counts as a reader, even if another node passed the value on to it.
    """
    last: dict[Value, str] = {}
    local: set[Value] = set(own)
    for id, item in graph.items.items():
        for port in output_ports(item):
            last[Ref(id, port)] = id
            local.add(Ref(id, port))
        for leaf in used(item):
            if isinstance(leaf, Ref | Var) and leaf in local:
                last[leaf] = id
        for holder, _ in needed(item, components):
            if holder in local:
                last[holder] = id
    return last


def _component_spans(
    graph: Graph, components: Components
) -> tuple[Mapping[str, list[tuple[Ref, str]]], Mapping[str, list[tuple[Ref, str]]]]:
    """For each item, find the components of this level that it is the first or the last to need."""
    first: dict[tuple[Ref, str], str] = {}
    last: dict[tuple[Ref, str], str] = {}
    for id, item in graph.items.items():
        for part in sorted(_held_here(item, graph, components), key=repr):
            first.setdefault(part, id)
            last[part] = id
    before: dict[str, list[tuple[Ref, str]]] = {}
    after: dict[str, list[tuple[Ref, str]]] = {}
    for part, id in first.items():
        before.setdefault(id, []).append(part)
    for part, id in last.items():
        after.setdefault(id, []).append(part)
    return before, after


def _held_here(item: Item, graph: Graph, components: Components) -> set[tuple[Ref, str]]:
    return {part for part in needed(item, components) if part[0].node in graph.items}
