"""Nodes that no output and no effect needs."""

from __future__ import annotations

from collections.abc import Iterator

from ...contract.diagnostics import Diagnostic
from ..ir import (
    Call,
    Graph,
)
from ..passes.prune import live


def unused(graph: Graph) -> Iterator[Diagnostic]:
    """Report nodes that nothing needs, as warnings.

    A composite is reported only as a whole: a workflow need not use every node of it.
    """
    needed = live(graph)
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


def _prefixes(id: str) -> Iterator[str]:
    """The paths that contain a path: `a` and `a.b` for `a.b.c`."""
    for position, character in enumerate(id):
        if character == ".":
            yield id[:position]
