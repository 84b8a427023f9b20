"""separate_turns: split a workflow into jobs. A job is one turn of each mapping loop, and depends on no other job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...contract.diagnostics import Diagnostic
from ...contract.source_spans import Span
from ..ir import Arg, Call, Const, Graph, Item, Items, Loop, Ref, edges, has_effect, leaves, used
from ..passes.prune import live

CODE = "unsupported"


@dataclass(frozen=True)
class SeparateTurns:
    """The turns of all mapping loops at the top of a graph: turn n of each loop makes job n.

    Attributes:
        loops: The paths of the loops.
        count: The number of jobs.
    """

    loops: frozenset[str]
    count: int


def separate_turns(graph: Graph) -> tuple[SeparateTurns | None, list[Diagnostic]]:
    """Find the jobs of a workflow, or the reasons why its turns cannot be computed apart.

    Args:
        graph: The folded graph, without errors.
    """
    needed = live(graph)
    items = {id: item for id, item in graph.items.items() if id in needed}
    loops = {id: item for id, item in items.items() if isinstance(item, Loop) and item.mapping}
    if not loops:
        message = "this workflow has no loop whose turns could be dealt to workers"
        help = "`for` without `carry` is such a loop, over a list of inputs; `sgd sweep --ray` deals runs"
        return None, [Diagnostic(CODE, message, help=help)]
    problems = [*_lengths(loops), *_readers(items, loops, needed), *_outputs(graph, loops)]
    if problems:
        return None, problems
    lengths = {f"`{name}` of `{id}`": count for id, loop in loops.items() for name, count in _counts(loop)}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{list} has {count}" for list, count in lengths.items())
        message = f"the loops go over lists of different lengths, so their turns cannot be paired into jobs: {named}"
        span = next(loop.span for loop in loops.values())
        return None, [Diagnostic(CODE, message, span, help="give them lists of one length")]
    count = next(iter(lengths.values()))
    if not count:
        message = "the lists of the loops are empty, so there is no job"
        return None, [Diagnostic(CODE, message, help="give each list at least one entry")]
    return SeparateTurns(frozenset(loops), count), []


def _counts(loop: Loop) -> Iterator[tuple[str, int]]:
    """The name and the number of entries of each list of the file or of an input that a loop goes over."""
    for name, arg in loop.over.items():
        if isinstance(arg.source, Const):
            yield name, len(arg.source.value)
        elif isinstance(arg.source, Items):
            yield name, len(arg.source.items)


def _lengths(loops: Mapping[str, Loop]) -> Iterator[Diagnostic]:
    """Loops over a list that a node makes: its length is known only during the run."""
    for id, loop in loops.items():
        for name, arg in loop.over.items():
            known = isinstance(arg.source, Const | Items)
            if not known and not (isinstance(arg.source, Ref) and arg.source.node in loops):
                message = f"loop `{id}` goes over `{arg.text or name}`, whose length is known only during the run"
                yield Diagnostic(CODE, message, arg.span or loop.span, help="go over a list of the file or of an input")


def _readers(items: Mapping[str, Item], loops: Mapping[str, Loop], needed: set[str]) -> Iterator[Diagnostic]:
    """Nodes that need all turns, that write once for all turns, or whose state goes from turn to turn."""
    for id, item in items.items():
        if id not in loops:
            if any(isinstance(leaf, Ref) and leaf.node in loops for leaf in used(item)):
                yield _all_turns(id, item.span)
            elif has_effect(item):
                message = f"`{id}` stands in no mapping loop and writes a file, which every job would write again"
                yield Diagnostic(CODE, message, item.span, help="move it into a loop, or run without --ray")
            continue
        for inner in loops[id].body.items.values():
            if inner.id not in needed:
                continue
            if any(isinstance(leaf, Ref) and leaf.node in loops for leaf in used(inner)):
                yield _all_turns(inner.id, inner.span)
            if isinstance(inner, Call) and inner.type.states:
                message = f"`{inner.id}` ({inner.type.name}) keeps a state from turn to turn of loop `{id}`"
                yield Diagnostic(CODE, message, inner.span, help="run without --ray")
        made = [leaf for arg in _read(loops[id]) for leaf in leaves(arg.source)]
        if any(isinstance(leaf, Ref) and leaf.node in loops for leaf in made):
            yield _all_turns(id, loops[id].span)


def _read(loop: Loop) -> Iterable[Arg]:
    """The results of a loop, and the lists of references that it goes over."""
    yield from loop.body.outputs.values()
    yield from (arg for arg in loop.over.values() if isinstance(arg.source, Items))


def _all_turns(id: str, span: Span | None) -> Diagnostic:
    message = f"`{id}` reads the results of all turns of a loop, and no job has them all"
    return Diagnostic(CODE, message, span, help="run without --ray")


def _outputs(graph: Graph, loops: Mapping[str, Loop]) -> Iterator[Diagnostic]:
    for name, arg in graph.outputs.items():
        if not isinstance(arg.source, Ref) and any(isinstance(e, Ref) and e.node in loops for e in edges([arg])):
            yield _all_turns(name, arg.span)
