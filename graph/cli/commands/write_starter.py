"""`sgd init`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...compiler.frontend.foreign_files import foreign_problem
from ...contract.cards import memory_size
from ...contract.constants import DONE, FAILED, WRONG
from ...contract.diagnostics import render
from ...contract.errors import NodeError
from ...contract.interrupts import held
from ...contract.node_library import NodeLibrary
from ...contract.output_files import replace_text
from ...contract.source_spans import Source
from ...contract.suggestions import did_you_mean
from ...contract.workflow_folders import bundled_workflows
from ...contract.yaml_reader import parse, read
from ...language.document import document
from ...language.registry import Library, installed
from ..bundled_copy import portable_copy
from ..command_line import say_failure, wrong
from ..fitted_tables import fitted
from ..other_machine import memory
from ..terminal import say, show, stdout_width


def add_arguments(to: ArgumentParser, libraries: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd init`."""
    sources = ", or ".join(library.starter_sources for library in libraries if library.starter_sources)
    to.add_argument(
        "source",
        nargs="?",
        metavar="NAME|SOURCE",
        help=f"a bundled workflow (default: they are listed), or {sources or 'a source'}",
    )
    to.add_argument("--out", metavar="FILE", help="the file to write (default: <name>.yaml here; - for stdout)")
    to.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    memory(to)


def command(arguments: Namespace) -> int:
    """`sgd init`."""
    if arguments.source is None:
        for option, value in (("--out", arguments.out), ("--memory", arguments.memory)):
            if value is not None:
                return wrong(f"{option} needs a bundled workflow or a model", "write `sgd init quickstart`")
        show(listing())
        return DONE
    library = installed()
    libraries = library.libraries.values()
    foreign = foreign_problem(Path(arguments.source), libraries)
    if foreign is not None:
        say(render([foreign], {}))
        return WRONG
    file = bundled_workflows() / f"{arguments.source}.yaml"
    is_bundled = "/" not in arguments.source and file.is_file()
    try:
        size = memory_size(arguments.memory) if arguments.memory is not None else None
        if is_bundled:
            name, text = arguments.source, portable_copy(file)
        else:
            name, text = starter(arguments.source, libraries)
    except NodeError as error:
        named = f"--memory {arguments.memory}" in str(error)
        return wrong(str(error), (did_you_mean(arguments.source, names()) if not named else None) or error.help)
    path = Path(f"{name}.yaml" if arguments.out in (None, "-") else arguments.out)
    if arguments.out != "-" and path.exists() and not arguments.overwrite:
        return wrong(f"{path} exists", "pass --overwrite, or another --out")
    if size is not None:
        fitted = _fitted(path, text, size, library)
        if isinstance(fitted, int):
            return fitted
        text = fitted
    if arguments.out == "-":
        show(text, end="")
        return DONE
    try:
        with held():
            replace_text(path, text)
    except OSError as error:
        return wrong(f"cannot write {path}: {error.strerror}")
    needed = "".join(f" {name}=…" for name in required_inputs(Source(str(path), path, text)))
    say(
        f"wrote {path}; try `sgd exec {path}{needed}`"
        if is_bundled
        else f"wrote {path}; try `sgd check {path}` and `sgd plan {path}`"
    )
    return DONE


def _fitted(path: Path, text: str, size: int, library: Library) -> str | int:
    """The text after the edits that make its plan fit a memory; the exit code if nothing fits."""
    from ...runtime.failure import NodeFailed
    from ..fitting_text import fitted_text

    try:
        return fitted_text(path, text, size, library)
    except NodeFailed as error:
        say_failure(error, Namespace(traceback=False))
        return FAILED
    except NodeError as error:
        return wrong(str(error), error.help)


def required_inputs(workflow: Source) -> list[str]:
    """The names of a workflow's inputs that have no default."""
    inputs = document(workflow).inputs
    return [name for name, (_, part) in inputs.items() if part is not None and part.default is None]


def names() -> list[str]:
    """The names of the bundled workflows."""
    return sorted(file.stem for file in bundled_workflows().glob("*.yaml"))


def listing() -> str:
    """List the bundled workflows, each with its description, as text."""
    rows = []
    for name in names():
        value, _ = parse(read(bundled_workflows() / f"{name}.yaml"))
        assert value is not None, "bundled workflows are not empty"
        rows.append((name, str(value.data["about"].data)))
    return "\n".join(fitted(rows, stdout_width(), flexible=1, wrap=True))


def starter(source: str, libraries: Iterable[NodeLibrary]) -> tuple[str, str]:
    """Name and text of a workflow, from the first library that has one for the source.

    Raises:
        NodeError: If no library has one. The error is that of the first library that raised one.
    """
    refused: NodeError | None = None
    for library in libraries:
        try:
            found = library.starter(source)
        except NodeError as error:
            refused = refused or error
            continue
        if found is not None:
            return found
    raise refused or NodeError(f"no node library has a workflow for {source}")
