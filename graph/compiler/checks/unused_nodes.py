"""Nodes that no output and no effect needs."""

from __future__ import annotations

from collections.abc import Iterator, Set

from ...contract.diagnostics import Diagnostic
from ..ir import (
    Call,
    Graph,
    Ref,
    used,
)
from ..passes.prune import live


def unused(graph: Graph, dropped: Set[str] = frozenset()) -> Iterator[Diagnostic]:
    """Report nodes that nothing needs, as warnings.

    A composite is reported only as a whole: a workflow need not use every node of it. Nodes that serve only those in
    `dropped` are not reported: the caller reported why nothing reads them.
    """
    needed = live(graph) | _served(graph, dropped)
    living = {prefix for id in needed for prefix in _prefixes(id)}
    composites = {path: (name, span) for path, name, span in graph.composites}
    warned: set[str] = set()
    for item, around in graph.walk():
        if item.id in needed or any(loop.id not in needed for loop in around):
            continue
        kind = item.type.name if isinstance(item, Call) else "loop"
        id, span = item.id, item.span
        owner = next((prefix for prefix in _prefixes(item.id) if prefix in composites), None)
        if owner is not None:
            if owner in living or owner in warned:
                continue
            id, (kind, span) = owner, composites[owner]
            warned.add(owner)
        help = "connect it to a node that runs, name it under `outputs`, or remove it"
        message = f"`{id}` ({kind}) does not run: no output and no effect needs it"
        yield Diagnostic("unused-node", message, span, help=help, severity="warning")


def _served(graph: Graph, ids: Set[str]) -> set[str]:
    """The items of these paths, and all that they need."""
    items = {item.id: item for item, _ in graph.walk()}
    found: set[str] = set()
    left = [id for id in ids if id in items]
    while left:
        id = left.pop()
        if id not in found:
            found.add(id)
            left += [leaf.node for leaf in used(items[id]) if isinstance(leaf, Ref) and leaf.node in items]
    return found


def _prefixes(id: str) -> Iterator[str]:
    """The paths that contain a path: `a` and `a.b` for `a.b.c`."""
    for position, character in enumerate(id):
        if character == ".":
            yield id[:position]
