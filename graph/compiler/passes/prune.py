"""prune: remove items that no output and no effect needs, or that no chosen call needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from ..ir import Arg, Call, Graph, Item, Loop, Ref, leaves


def live(graph: Graph) -> set[str]:
    """Paths of the items that run: effects, and everything that outputs or effects read."""
    return reached(graph)[0]


def reached(graph: Graph, roots: Collection[str] = ()) -> tuple[set[str], set[tuple[str, str]]]:
    """Find the items that run, and the outputs of loops that something reads.

    Items that serve only an unread output of a mapping loop do not run. Carried state always counts as read. If `roots`
    (paths of calls) is given, only these calls and the calls that they need run.

    Returns:
        Paths of the items; and pairs of the path of a loop and the name of one of its outputs.
    """
    items = {item.id: item for item, _ in graph.walk()}
    loops = {item.id: around for item, around in graph.walk()}
    needed: set[str] = set()
    read: set[tuple[str, str]] = set()
    work: list[Ref | str] = list(roots)
    if not roots:
        work += [item.id for item in items.values() if isinstance(item, Call) and item.type.effect]
        work += _refs(graph.outputs.values())
    while work:
        entry = work.pop()
        id = entry if isinstance(entry, str) else entry.node
        item = items.get(id)
        if item is None:
            continue
        if isinstance(item, Loop) and isinstance(entry, Ref) and (id, entry.port) not in read:
            read.add((id, entry.port))
            if item.mapping and entry.port in item.body.outputs:
                work += _refs([item.body.outputs[entry.port]])
        if id in needed:
            continue
        needed.add(id)
        work += _refs(item.sources)
        work += [loop.id for loop in loops[id]]
        if isinstance(item, Loop) and item.carry:
            work += _refs(item.body.outputs.values())
    return needed, read


def _refs(args: Iterable[Arg]) -> list[Ref | str]:
    return [leaf for arg in args for leaf in leaves(arg.source) if isinstance(leaf, Ref)]


def prune(graph: Graph, roots: Collection[str] = ()) -> Graph:
    """Return the graph without items that nothing needs, and without outputs of mapping loops that nothing reads.

    If `roots` (paths of calls) is given, the result holds only these calls and the calls that they need, and has no
    outputs.
    """
    needed, read = reached(graph, roots)

    def level(graph: Graph) -> Graph:
        items: dict[str, Item] = {}
        for id, item in graph.items.items():
            if id not in needed:
                continue
            if isinstance(item, Loop):
                body = level(item.body)
                if item.mapping:
                    outputs = {n: a for n, a in body.outputs.items() if (id, n) in read}
                    body = replace(body, outputs=outputs)
                items[id] = replace(item, body=body)
            else:
                items[id] = item
        return replace(graph, items=items)

    return level(replace(graph, outputs={}) if roots else graph)
