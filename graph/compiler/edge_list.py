"""The edges of a graph as pairs of places in the file, for pictures of it and for the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .ir import Arg, Call, Graph, Ref, edges


def edge_list(graph: Graph) -> tuple[tuple[str, str], ...]:
    """Every edge of a graph, each once, in file order.

    An edge goes from an output port to a parameter: `("text.out", "loop.split.text")`. A loop
    variable, and the state that a loop carries, has the loop's path before its name. The first value of the state goes
    to `loop.state`; from there it goes to nodes in the loop; the yield of a turn goes back to `loop.state`. Nodes
    outside the loop read what it yields from `loop.state` too.
    """
    return tuple(dict.fromkeys(_level(graph, "")))


def _level(graph: Graph, loop: str) -> Iterator[tuple[str, str]]:
    for item in graph.items.values():
        if isinstance(item, Call):
            yield from _into(item.id, item.args)
        else:
            yield from _into(item.id, {**item.over, **item.carry})
            yield from _level(item.body, item.id)
    if loop:
        yield from _into(loop, graph.outputs)


def _into(item: str, args: Mapping[str, Arg]) -> Iterator[tuple[str, str]]:
    for name, arg in args.items():
        for edge in edges([arg]):
            source = f"{edge.node}.{edge.port}" if isinstance(edge, Ref) else f"{edge.loop}.{edge.name}"
            yield source, f"{item}.{name}"
