"""needed_parts: check the parts of values that a run will bring into memory, such as their files.

Parts that no node reads are not checked: a run does without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...contract.diagnostics import Diagnostic
from ..ir import Call, Graph, Ref
from ..known_arguments import facts_of
from ..passes.parts import components
from ..passes.prune import prune
from .descriptions import makers, placed


def needed_parts(graph: Graph, known: Mapping[Ref, Any], options: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Problems that the `check_parts` functions of node types find.

    Args:
        graph: A graph without errors.
        known: Facts of outputs.
        options: Options of the run.
    """
    graph = prune(graph, ())
    wanted: dict[str, set[str]] = {}
    for parts in components(graph, known).values():
        for holder, part in parts:
            wanted.setdefault(holder.node, set()).add(part)
    made = makers(graph)
    for item, _ in graph.walk():
        if isinstance(item, Call) and item.id in wanted and item.type.check_parts is not None:
            found = item.type.check_parts(facts_of(item, known), frozenset(wanted[item.id]), options)
            yield from (placed(problem, item, made) for problem in found)
