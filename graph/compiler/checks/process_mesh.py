"""process_mesh: the arrangement of the processes that will compute a workflow, and whether it can work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...contract.diagnostics import Diagnostic
from ...contract.errors import NodeError
from ...contract.processes import Mesh, mesh_of
from ...language.document import Document
from ..ir import Call, Graph, Ref
from ..known_arguments import facts_of
from ..passes.prune import live, reached
from .descriptions import makers, placed

CODE = "unsupported"


@dataclass(frozen=True)
class Asked:
    """The processes that a command line asks for.

    Attributes:
        processes: Their number; None if it says none.
        mesh: Their arrangement; None if it says none.
    """

    processes: int | None = None
    mesh: Mesh | None = None


def process_mesh(
    document: Document, graph: Graph, known: Mapping[Ref, Any], asked: Asked | None
) -> tuple[list[Diagnostic], Mesh]:
    """The arrangement of the processes of a run, and its problems.

    Args:
        document: The file.
        graph: The folded graph, without errors.
        known: Facts of outputs.
        asked: What the command line asks for; None for a command that runs in one process.
    """
    span = document.parallel.span if document.parallel is not None else None
    written: Mesh | None = None
    if document.parallel is not None:
        try:
            written = mesh_of({name: value.data for name, value in document.parallel.data.items()})
        except NodeError as error:
            return [replace(error.diagnostic, message=f"`parallel`: {error}", place=span)], Mesh()
    if asked is None:
        if written is None or written.size == 1:
            return [], Mesh()
        message = f"this runs in one process; `run` of the file asks for {written}"
        help = "`sgd exec` runs in several processes"
        return [Diagnostic(CODE, message, span, severity="warning", help=help)], Mesh()
    if asked.mesh is None and asked.processes is not None and written is not None and written.size != asked.processes:
        written = None  # the command line wins over the file
    mesh = asked.mesh or written
    where = span if asked.mesh is None and mesh is not None else None
    count = asked.processes or (mesh.size if mesh is not None else 1)
    if mesh is not None and mesh.size != count:
        message = f"{mesh} is for {mesh.size} process{'es' * (mesh.size > 1)}, not for {count}"
        help = f"give `--processes {mesh.size}`, or a `--parallel` for {count}"
        return [Diagnostic(CODE, message, where, help=help)], Mesh()
    if count == 1:
        return [], Mesh()
    if not any(call.type.processes == "split" for call in _calls(graph)):
        message = "no node of this workflow can be computed by several processes"
        return [Diagnostic(CODE, message, where, help="leave out --processes")], Mesh()
    problems = list(_after_effects(graph))
    if mesh is not None:
        return [*problems, *_problems(graph, known, mesh)], mesh
    reasons: list[Diagnostic] = []
    for mesh in _choices(count):
        found = list(_problems(graph, known, mesh))
        if not found:
            return problems, mesh
        if mesh.ring == 1:  # problems with `ring` would repeat these
            reasons += found
    return [*problems, *reasons], Mesh()


def _choices(count: int) -> Iterator[Mesh]:
    """The arrangements that are tried where none is asked for, the best first.

    Branches exchange the least data. Ulysses exchanges less than `ring`, but takes no more ranks than there are heads.
    """
    for ring in range(1, count + 1):
        for branches in (2, 1):
            if count % (branches * ring) == 0:
                yield Mesh(branches=branches, ulysses=count // (branches * ring), ring=ring)


def _calls(graph: Graph) -> list[Call]:
    """The calls that will run."""
    needed = live(graph)
    return [item for item, _ in graph.walk() if isinstance(item, Call) and item.id in needed]


def _problems(graph: Graph, known: Mapping[Ref, Any], mesh: Mesh) -> Iterator[Diagnostic]:
    made = makers(graph)
    for call in _calls(graph):
        if call.type.check_mesh is not None:
            found = call.type.check_mesh(facts_of(call, known), mesh)
            yield from (placed(problem, call, made) for problem in found)


def _after_effects(graph: Graph) -> Iterator[Diagnostic]:
    """Calls that all ranks would compute together, but of a value that rank 0 alone has."""
    calls = _calls(graph)
    effects = {call.id for call in calls if call.type.effect}
    for call in calls:
        if call.type.processes == "split" and not effects.isdisjoint(reached(graph, [call.id])[0]):
            message = f"{call.type.name} reads the result of a node that writes files, which only one process runs"
            help = "read the value that is written, or leave out --processes"
            yield Diagnostic(CODE, message, call.span, help=help)
