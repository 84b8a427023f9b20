"""order: sort items by dependency, with readers of one component next to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import networkx as nx

from ..ir import Graph, Item, Loop, Ref, dependencies

Components = Mapping[str, set[tuple[Ref, str]]]


def order(graph: Graph, components: Components) -> Graph:
    """Order every level. Of the items that are ready, the item that needs the fewest components not yet in memory goes
    first; file order decides between equals.
    """
    items = {
        id: replace(item, body=order(item.body, components)) if isinstance(item, Loop) else item
        for id, item in graph.items.items()
    }
    needs = {id: needed(item, components) for id, item in items.items()}
    place = {id: n for n, id in enumerate(items)}
    edges = dependencies(graph)
    waiting = dict(edges.in_degree())
    ready = [id for id, count in waiting.items() if count == 0]
    readers: dict[tuple[Ref, str], set[str]] = {}
    for id, parts in needs.items():
        for part in parts:
            readers.setdefault(part, set()).add(id)
    held: set[tuple[Ref, str]] = set()
    result: dict[str, Item] = {}
    while ready:
        chosen = min(ready, key=lambda id: (len(needs[id] - held), place[id]))
        ready.remove(chosen)
        result[chosen] = items[chosen]
        held |= needs[chosen]
        for part in needs[chosen]:
            readers[part].discard(chosen)
        held = {part for part in held if readers[part]}
        for after in sorted(edges.successors(chosen), key=place.__getitem__):
            waiting[after] -= 1
            if waiting[after] == 0:
                ready.append(after)
    assert len(result) == len(items), f"a cycle reached ordering: {nx.find_cycle(edges)}"
    return replace(graph, items=result)


def needed(item: Item, components: Components) -> set[tuple[Ref, str]]:
    """The components that an item needs; for a loop, the components of all items in it."""
    if not isinstance(item, Loop):
        return set(components.get(item.id, ()))
    return set().union(*(needed(inner, components) for inner in item.body.items.values()))
