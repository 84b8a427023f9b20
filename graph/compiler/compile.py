"""Check a workflow file and compile it to a plan, with all checks and passes in order."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..contract.diagnostics import Diagnostic
from ..contract.errors import Problems
from ..contract.processes import Mesh
from ..contract.source_spans import Source
from ..language.document import Document
from ..language.literals import Given
from ..language.registry import Library, installed
from .checks.descriptions import facts
from .checks.edge_types import types
from .checks.expected_results import expected_results
from .checks.input_values import input_values, unread_inputs
from .checks.literal_values import values
from .checks.needed_parts import needed_parts
from .checks.output_paths import files as written_files
from .checks.process_mesh import Asked, process_mesh
from .checks.structure import structure
from .checks.unused_nodes import unused
from .edge_list import edge_list
from .frontend.expand import Files, expand
from .frontend.foreign_files import open_workflow
from .frontend.recipe_source import Found, open_recipe, recipe_at
from .frontend.references import Resolver
from .frontend.workflow_path import find_workflow
from .ir import Const, Graph, Input, Item, Loop, Ref, verify
from .pass_list import PASSES, Needs, PassState
from .passes.fold import fold
from .passes.lifetimes import lifetimes
from .plan import Expected, Plan
from .written_recipe import changed_run, written_recipe


@dataclass
class Checked:
    """The result of checking a file.

    Attributes:
        diagnostics: Errors and warnings, in file order.
        sources: Texts by name, for code frames.
        graph: The resolved graph with inputs folded in, None if there were errors.
        known: Facts of outputs before anything runs.
        values: Values of inputs, given or default.
        settings: Values of parameters that were set by path, read as their types.
        expected: The limits of `expect`; None if the file has none.
        mesh: How the processes of a run are arranged.
        files: The files of the workflow.
        found: The recipe that the workflow stands in; None for a workflow file.
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    sources: dict[str, Source] = field(default_factory=dict)
    graph: Graph | None = None
    known: Mapping[Ref, Any] = field(default_factory=dict)
    document: Document | None = None
    values: Mapping[str, Const] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    expected: Expected | None = None
    mesh: Mesh = Mesh()
    files: Files = field(default_factory=Files)
    found: Found | None = None

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.severity == "error"]

    @property
    def warnings(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.severity == "warning"]


def check(
    file: str | Path,
    inputs: Mapping[str, Given] | None = None,
    settings: Mapping[str, Given] | None = None,
    library: Library | None = None,
    complete: bool = False,
    fold_inputs: bool = True,
    options: Mapping[str, Any] | None = None,
    text: str | None = None,
    asked: Asked | None = None,
    held: Mapping[Path, str] | None = None,
) -> Checked:
    """Find every problem of a workflow file.

    Args:
        file: A path, or the name of a bundled workflow. A record, the folder of a run, or a file that a run wrote
            stands for the workflow in its recipe, with the values there.
        inputs: Values of inputs. They win over those of a recipe.
        settings: Values of parameters by path. They win too.
        library: Node types; by default the installed ones.
        complete: Report inputs that have neither a value nor a default.
        fold_inputs: Put values of inputs into the resulting graph. If False, the graph stays as the file is written.
        options: Options of the run that will follow. The files that it will read are checked too. None if nothing will
            run, as for a plan.
        text: The text to check in place of the file's. Paths in it are relative to the folder of `file`.
        held: The texts of all files that `text` uses, by path, so that none of them is read from this disk.
        asked: The processes that the command line asks for; None for a command that runs in one process.
    """
    result = Checked()
    library = library or installed()
    files = result.files
    result.sources = files.sources
    try:
        result.found = found = recipe_at(file, library.libraries.values()) if text is None else None
        if text is not None:
            files.held = held
            document = files.parse(Source(str(file), Path(file), text))
        elif found is not None:
            document = open_recipe(found, files)
            inputs, settings = found.inputs() | dict(inputs or {}), found.settings() | dict(settings or {})
            result.diagnostics += changed_run(found, library, options)
        else:
            path, name = find_workflow(file)
            document = open_workflow(path, name, files, library.libraries.values())
        written = _check(document, files, library, inputs or {}, settings or {}, complete, result)
        if result.graph is not None:
            problems, result.mesh = process_mesh(document, result.graph, result.known, asked)
            result.diagnostics += problems
        if options is not None and result.graph is not None:
            result.diagnostics += needed_parts(result.graph, result.known, options)
        if not fold_inputs:
            result.graph = written
    except Problems as problems:
        result.diagnostics += files.problems + problems.diagnostics
    result.diagnostics = _sorted(result.diagnostics, list(result.sources))
    if result.errors:
        result.graph = None
    return result


def _check(
    document: Document,
    files: Files,
    library: Library,
    inputs: Mapping[str, Given],
    settings: Mapping[str, Given],
    complete: bool,
    result: Checked,
) -> Graph:
    """Fill in `result`; return the graph as the file is written."""
    result.document = document
    instance = expand(document, files)
    resolver = Resolver(library, settings)
    declared = resolver.declared(document)
    found = result.diagnostics
    result.values = input_values(declared, inputs, found, complete)
    null = {name for name, value in result.values.items() if value.value is None}
    graph = resolver.resolve(instance, declared, null)
    result.settings = {n: given.value for n, given in settings.items()} | resolver.settings
    found += files.problems + resolver.problems
    found += structure(graph)
    if any(d.code == "cycle" for d in found):
        return graph
    found += types(graph)
    folded = fold(graph, result.values)
    found += values(folded, {d.span for d in found if d.code == "type-mismatch"})
    found += written_files(folded)
    problems, result.expected = expected_results(document, graph, carried=result.found is not None)
    found += problems
    if not any(d.code in ("type-mismatch", "yield-mismatch") for d in found):
        problems, result.known = facts(folded)
        found += problems
    if result.errors:
        return graph
    verify(folded, "fold")
    dropped = {resolver.through_aliases(source) for source in resolver.unread}
    found += unused(folded, {source.node for source in dropped if isinstance(source, Ref)})
    found += unread_inputs(graph, {source.name for source in dropped if isinstance(source, Input)})
    result.graph = folded
    return graph


def _sorted(diagnostics: list[Diagnostic], files: list[str]) -> list[Diagnostic]:
    """Sort diagnostics by file and line, and remove duplicates.

    First come diagnostics without a place, then those of the workflow, then those of the files that it uses.
    """
    order = {file: number for number, file in enumerate(files)}

    def key(d: Diagnostic) -> tuple[int, int, int]:
        return (order.get(d.span.file, len(files)), d.span.line, d.span.column) if d.span else (-1, 0, 0)

    return sorted(dict.fromkeys(diagnostics), key=key)


def compile_graph(
    graph: Graph, known: Mapping[Ref, Any] | None = None, roots: Collection[str] = (), after: str = ""
) -> tuple[Graph, Needs]:
    """Run `PASSES`, verifying the graph after each.

    Args:
        graph: A checked graph.
        known: Facts of outputs.
        roots: See `prune`.
        after: Name of the last pass to run; empty to run all passes.
    """
    state = PassState(known or {}, roots)
    graph = replace(graph, constraints=())
    for each in PASSES:
        graph = verify(each.function(graph, state), each.name, ordered=each.ordered)
        if each.name == after:
            break
    return graph, state.needs


def plan_of(checked: Checked, library: Library, roots: Collection[str] = ()) -> Plan:
    """Compile a file that was checked without errors to a plan.

    Args:
        checked: The result of `check`.
        library: Node types.
        roots: Paths of calls. Only these calls and the calls that they need run. Empty for the whole file.
    """
    graph, document = checked.graph, checked.document
    assert graph is not None
    assert document is not None
    compiled, needs = compile_graph(graph, checked.known, roots)
    names = {item.id: _kind(item) for item, _ in graph.walk()} | {p: n for p, n, _ in graph.composites}
    return Plan(
        name=graph.name,
        steps=lifetimes(compiled, needs),
        outputs=compiled.outputs,
        names=names,
        inputs={n: c.value for n, c in checked.values.items()},
        settings=checked.settings,
        libraries=tuple(library.libraries_of({c.type.name for c in compiled.calls()})),
        loaded=tuple(library.libraries.values()),
        file=document.path,
        sha256=hashlib.sha256(document.source.text.encode()).hexdigest(),
        warnings=tuple(f"{d.code}: {d.message}" for d in checked.warnings),
        declared=graph.inputs,
        expected=checked.expected,
        edges=edge_list(graph),
        recipe=written_recipe(document, checked.files, checked.values, graph, checked.settings, library),
    )


def _kind(item: Item) -> str:
    return "loop" if isinstance(item, Loop) else item.type.name


def compile(
    file: str | Path,
    inputs: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    library: Library | None = None,
) -> Plan:
    """Compile a workflow file with Python values for its inputs and parameters.

    Raises:
        Problems: With every diagnostic, if the file or a value is wrong.
    """
    library = library or installed()
    here = Path.cwd()
    given = {n: Given(v, False, here) for n, v in (inputs or {}).items()}
    settings = {n: Given(v, False, here) for n, v in (set or {}).items()}
    checked = check(file, given, settings, library, complete=True)
    if checked.errors:
        raise Problems(checked.diagnostics)
    return plan_of(checked, library)
