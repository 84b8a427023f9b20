"""facts: what node types themselves say before anything runs (`describe`), and what they find wrong (`check`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from ...contract.diagnostics import Diagnostic, Related
from ...contract.source_spans import Span
from ..ir import Arg, Call, Graph, Loop, Ref, Var, dependencies
from ..known_arguments import _known, known_arguments
from ..passes.prune import live


def facts(graph: Graph) -> tuple[list[Diagnostic], Mapping[Ref, Any]]:
    """Run the node types' own `describe` and `check` on what is known; their problems, and the descriptions.

    The graph may have other problems, as long as every edge is of the right type: what is broken is not known.
    """
    known: dict[Ref | Var, Any] = {}
    found: list[Diagnostic] = []
    needed = live(graph)
    made = {item.id: item.span for item, _ in graph.walk() if item.span is not None}

    def level(graph: Graph) -> None:
        for id in nx.topological_sort(dependencies(graph)):
            item = graph.items[id]
            if isinstance(item, Loop):
                for name, arg in item.over.items():
                    # What a value says of itself (a schedule's number of steps) holds for its entries.
                    description = _known(arg, known)
                    if isinstance(description, Mapping):
                        known[Var(id, name)] = description
                for name, arg in item.carry.items():
                    description = _known(arg, known)
                    if description is not None:
                        known[Var(id, name)] = description
                level(item.body)
                for name, arg in item.body.outputs.items():
                    description = _known(arg, known)
                    if description is not None and item.carry:
                        known[Ref(id, name)] = description
            elif id in needed:
                call(item)

    def call(item: Call) -> None:
        arguments = known_arguments(item, known)
        if item.type.check is not None:
            for problem in item.type.check(**arguments):
                arg = item.args.get(problem.parameter)
                span = arg.span if arg is not None and arg.span is not None else item.span
                given = f" (from {arg.given})" if arg is not None and arg.given else ""
                related = () if arg is None else _made_here(arg, made)
                found.append(
                    Diagnostic(
                        problem.code,
                        problem.message + given,
                        span,
                        related=related,
                        help=problem.help,
                        severity=problem.severity,
                    )
                )
        if item.type.describe is not None:
            described = item.type.describe(**arguments)
            if described is not None:
                several = len(item.type.outputs) > 1
                for output in item.type.outputs:
                    value = described.get(output.name) if several else described
                    if value is not None:
                        known[Ref(item.id, output.name)] = value

    level(graph)
    return found, {k: v for k, v in known.items() if isinstance(k, Ref)}


def _made_here(arg: Arg, made: Mapping[str, Span]) -> tuple[Related, ...]:
    """Where the value of an edge comes from: often another file than the one that reads it."""
    if not isinstance(arg.source, Ref) or arg.span is None or arg.source.node not in made:
        return ()
    return (Related("made here", made[arg.source.node]),)
