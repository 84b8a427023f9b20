"""Cycles of a resolved graph."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from ...contract.diagnostics import Diagnostic, Related
from ...contract.source_spans import Span
from ..ir import (
    Graph,
    Item,
    Loop,
    Ref,
    dependencies,
    leaves,
)


def structure(graph: Graph) -> Iterator[Diagnostic]:
    """Report cycles in the graph and in the bodies of its loops."""
    levels = [graph] + [item.body for item, _ in graph.walk() if isinstance(item, Loop)]
    for level in levels:
        order = dependencies(level)
        for component in nx.strongly_connected_components(order):
            if len(component) > 1 or any(order.has_edge(id, id) for id in component):
                first = next(id for id in level.items if id in component)
                yield _cycle(level, first, order.subgraph(component))


def _cycle(level: Graph, first: str, component: nx.DiGraph[str]) -> Diagnostic:
    edges = nx.find_cycle(component, first)
    names = [edge[0] for edge in edges] + [edges[-1][1]]
    spans = [_reads(level.items[reader], read) for read, reader, *_ in edges]
    related = tuple(Related(f"`{edge[1]}` reads `{edge[0]}`", s) for edge, s in zip(edges, spans, strict=True) if s)
    message = "nodes that need each other: " + " -> ".join(f"`{n}`" for n in names)
    help = "to pass a value from one turn to the next, use a loop with `carry`"
    return Diagnostic("cycle", message, level.items[first].span, related=related, help=help)


def _reads(item: Item, id: str) -> Span | None:
    for arg in item.sources:
        if any(isinstance(leaf, Ref) and leaf.node == id for leaf in leaves(arg.source)):
            return arg.span
    if isinstance(item, Loop):
        for inner in item.body.items.values():
            if span := _reads(inner, id):
                return span
    return item.span
