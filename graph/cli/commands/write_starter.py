"""`sgd init`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from ...compiler.frontend.foreign_files import foreign_problem
from ...contract.constants import DONE, WRONG
from ...contract.diagnostics import render
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ...language.registry import installed
from ..command_line import say, wrong


def command(arguments: Namespace) -> int:
    """`sgd init`."""
    libraries = installed().libraries.values()
    foreign = foreign_problem(Path(arguments.source), libraries)
    if foreign is not None:
        say(render([foreign], {}))
        return WRONG
    try:
        name, text = starter(arguments.source, libraries)
    except NodeError as error:
        return wrong(str(error), error.help)
    if arguments.out == "-":
        print(text, end="")
        return DONE
    path = Path(arguments.out or f"{name}.yaml")
    if path.exists() and not arguments.overwrite:
        return wrong(f"{path} exists", "pass --overwrite, or another --out")
    try:
        path.write_text(text)
    except OSError as error:
        return wrong(f"cannot write {path}: {error.strerror}")
    say(f"wrote {path}; try `sgd check {path}` and `sgd plan {path}`")
    return DONE


def starter(source: str, libraries: Iterable[NodeLibrary]) -> tuple[str, str]:
    """Name and text of a workflow, from the first library that has one for the source.

    Raises:
        NodeError: If none has; the first library that raised says why.
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
