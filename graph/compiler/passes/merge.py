"""merge: run equal pure calls once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import networkx as nx

from ..ir import Arg, Call, Const, Format, Graph, Item, Items, Loop, Ref, Source, dependencies, rewrite


def merge(graph: Graph) -> Graph:
    """Replace calls of one node type with equal arguments by the first, at its level and in the loops below it.

    The remaining call has the names of all of them, and the union of their wanted parts.
    """
    stays: dict[str, Call] = {}
    replaced: dict[str, str] = {}

    def through(source: Source) -> Source:
        return (
            replace(source, node=replaced[source.node])
            if isinstance(source, Ref) and source.node in replaced
            else source
        )

    def find(graph: Graph, known: Mapping[Any, str]) -> None:
        seen = dict(known)
        for id in nx.lexicographical_topological_sort(dependencies(graph), key=list(graph.items).index):
            item = graph.items[id]
            if isinstance(item, Loop):
                find(item.body, seen)
                continue
            if not item.type.mergeable:
                continue
            key = (item.type.name, item.type.version, _arguments(item, through))
            first = seen.setdefault(key, id)
            if first == id:
                stays[id] = item
            else:
                replaced[id] = first
                kept = stays[first]
                stays[first] = replace(kept, names=(*kept.names, *item.names), wanted=_union(kept.wanted, item.wanted))

    find(graph, {})

    def without(graph: Graph) -> Graph:
        items: dict[str, Item] = {}
        for id, item in graph.items.items():
            if isinstance(item, Loop):
                items[id] = replace(item, body=without(item.body))
            elif id not in replaced:
                items[id] = stays.get(id, item)
        return replace(graph, items=items)

    return rewrite(without(graph), through)


def _union(a: Mapping[str, frozenset[str]] | None, b: Mapping[str, frozenset[str]] | None) -> Any:
    if a is None or b is None:
        return None
    return {port: a.get(port, frozenset()) | b.get(port, frozenset()) for port in {**a, **b}}


def _arguments(call: Call, through: Any) -> Any:
    return tuple(sorted((name, _key(arg, through)) for name, arg in call.args.items()))


def _key(arg: Arg, through: Any) -> str:
    return _text(arg.source, through)


def _text(source: Source, through: Any) -> str:
    """The text of a source, which differs for different sources (1, 1.0 and true are three values)."""
    if isinstance(source, Const):
        return f"const {source.value!r}"
    if isinstance(source, Format):
        # The folder of a relative path is part of its meaning, but the comparison of sources leaves it out.
        parts = [p if isinstance(p, str) else [_text(p, through)] for p in source.parts]
        return f"format {source.safe} {source.base} {parts}"
    if isinstance(source, Items):
        return f"items {[_text(p, through) for p in source.items]}"
    return repr(through(source))
