"""hoist: run a call whose arguments are the same in every iteration of a loop once, before the loop."""

from __future__ import annotations

from dataclasses import replace

from ..ir import Call, Graph, Index, Item, Loop, Ref, Var, has_effect, used


def hoist(graph: Graph) -> Graph:
    """Move pure items without state out of every loop that they do not depend on.

    A loop has at least one iteration (an empty loop is an error), so a hoisted call would have run anyway. A nested
    loop counts as pure, because its state begins and ends with its own run.
    """
    items: dict[str, Item] = {}
    for id, item in graph.items.items():
        if isinstance(item, Loop):
            outside, loop = _split(replace(item, body=hoist(item.body)))
            items.update(outside)
            items[id] = loop
        else:
            items[id] = item
    return replace(graph, items=items)


def _split(loop: Loop) -> tuple[dict[str, Item], Loop]:
    """Split a loop into the items that leave it, and the loop without these items."""
    inside = dict(loop.body.items)
    outside: dict[str, Item] = {}
    moved = True
    while moved:
        moved = False
        for id, item in list(inside.items()):
            if _is_invariant(item, loop, inside):
                outside[id] = inside.pop(id)
                moved = True
    return outside, replace(loop, body=replace(loop.body, items=inside))


def _is_invariant(item: Item, loop: Loop, inside: dict[str, Item]) -> bool:
    if has_effect(item) or (isinstance(item, Call) and not item.type.mergeable):
        return False
    for leaf in used(item):
        if isinstance(leaf, Var | Index) and leaf.loop == loop.id:
            return False
        if isinstance(leaf, Ref) and leaf.node in inside and leaf.node != item.id:
            return False
    return True
