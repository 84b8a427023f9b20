"""facts: call the functions `describe` and `check` of node types with the facts that are known before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import networkx as nx

from ...contract.diagnostics import Diagnostic, Related
from ..ir import Arg, Call, Const, Format, Graph, Loop, Ref, Var, dependencies
from ..known_arguments import facts_of, known_facts, known_value
from ..passes.fold import locate
from ..passes.prune import live

MOST_PATHS = 1000
"""The paths of one list that are checked before a run. The run checks all."""


def facts(graph: Graph) -> tuple[list[Diagnostic], Mapping[Ref, Any]]:
    """Call `describe` and `check` of each call's node type. Return the problems, and the facts of outputs.

    Both functions run once for each call in the graph, not once for each iteration of a loop. The caller must have
    checked the types of all edges. The graph may have other problems. A broken argument is treated as unknown.
    """
    known: dict[Ref | Var, Any] = {}
    found: list[Diagnostic] = []
    needed = live(graph)
    loops = {item.id: item for item, _ in graph.walk() if isinstance(item, Loop)}
    made = makers(graph)

    def level(graph: Graph) -> None:
        for id in nx.topological_sort(dependencies(graph)):
            item = graph.items[id]
            if isinstance(item, Loop):
                enter(item)
                level(item.body)
                leave(item)
            elif id in needed and item.type.facts is not None:
                call(item)

    def enter(loop: Loop) -> None:
        for name, arg in loop.over.items():
            # The facts of a list (a schedule's number of steps) hold for its entries.
            described = known_facts(arg, known)
            if described is not None:
                known[Var(loop.id, name)] = described
        for name, arg in loop.carry.items():
            value = known_value(arg, known)
            if value is not None:
                known[Var(loop.id, name)] = value

    def leave(loop: Loop) -> None:
        for name, arg in loop.body.outputs.items():
            value = known_value(arg, known)
            if value is not None and loop.carry:
                known[Ref(loop.id, name)] = value

    def call(item: Call) -> None:
        facts = facts_of(item, known)
        if item.type.check is not None:
            found.extend(placed(problem, item, made) for problem in item.type.check(facts))
            for name, single in listed_paths(item, loops):
                problems = item.type.check(facts_of(single, known))
                found.extend(placed(problem, single, made) for problem in problems if problem.parameter == name)
        if item.type.describe is None:
            return
        described = item.type.describe(facts)
        several = len(item.type.outputs) > 1
        for output in item.type.outputs:
            value = described.get(output.name) if several and described is not None else described
            if value is not None:
                known[Ref(item.id, output.name)] = value

    level(graph)
    return found, {k: v for k, v in known.items() if isinstance(k, Ref)}


def listed_paths(call: Call, loops: Mapping[str, Loop]) -> Iterator[tuple[str, Call]]:
    """A call that reads a path of a loop over a literal list: the call with each path, and the path's parameter."""
    for name, arg in call.args.items():
        part = arg.source.parts[0] if isinstance(arg.source, Format) and len(arg.source.parts) == 1 else None
        over = loops[part.loop].over.get(part.name) if isinstance(part, Var) else None
        if over is None or not isinstance(over.source, Const) or not isinstance(over.source.value, list):
            continue
        assert isinstance(arg.source, Format)
        role = call.type.inputs[name].path == "source"
        for value in list(dict.fromkeys(v for v in over.source.value if isinstance(v, str)))[:MOST_PATHS]:
            path = Const(str(locate(value, arg.source.base, role)))
            yield name, replace(call, args={**call.args, name: replace(arg, source=path, span=over.span)})


def makers(graph: Graph) -> dict[str, Related]:
    """The place of each item by id, as a note for those that read it. It names the type that `--set` gave a node."""
    found = {}
    for item, _ in graph.walk():
        if item.span is not None:
            exchange = f" ({item.type.name}, by {item.given})" if isinstance(item, Call) and item.given else ""
            found[item.id] = Related(f"made here{exchange}", item.span)
    return found


def placed(problem: Diagnostic, call: Call, made: Mapping[str, Related]) -> Diagnostic:
    """The problem of a parameter, at the parameter's place in the file. `made`: see `makers`."""
    arg = call.args.get(problem.parameter or "")
    if arg is None:
        return replace(problem, place=call.span)
    given = f" (from {arg.given})" if arg.given else ""
    return replace(problem, message=problem.message + given, place=arg.span or call.span, related=_made_here(arg, made))


def _made_here(arg: Arg, made: Mapping[str, Related]) -> tuple[Related, ...]:
    """The place of the node whose output an edge reads, often in another file than the reading node."""
    if not isinstance(arg.source, Ref) or arg.span is None or arg.source.node not in made:
        return ()
    return (made[arg.source.node],)
