"""one_turn: the graph of one job. Every mapping loop at the top has one turn, which keeps its number."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..ir import Arg, Const, Graph, Index, Item, Items, Loop, Source, rewrite
from .fold import fold


def one_turn(graph: Graph, loops: Collection[str], number: int) -> Graph:
    """Leave one turn of some loops.

    Args:
        graph: The folded graph.
        loops: The paths of the mapping loops at its top, which `separate_turns` found.
        number: The number of the turn, from 0. Nodes read it as `${index}`.
    """

    def change(source: Source) -> Source:
        return Const(number) if isinstance(source, Index) and source.loop in loops else source

    numbered = rewrite(graph, change)
    items: dict[str, Item] = {}
    for id, item in numbered.items.items():
        if id in loops and isinstance(item, Loop):
            item = replace(item, over={name: _entry(arg, number) for name, arg in item.over.items()})
        items[id] = item
    return fold(replace(numbered, items=items), {})


def _entry(arg: Arg, number: int) -> Arg:
    """A list with one entry; the result of another loop has one already."""
    chosen = slice(number, number + 1)
    if isinstance(arg.source, Const):
        return replace(arg, source=replace(arg.source, value=list(arg.source.value)[chosen]))
    if isinstance(arg.source, Items):
        return replace(arg, source=Items(arg.source.items[chosen], arg.source.spans[chosen]))
    return arg
