"""`sgd init`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from ...contract.constants import DONE
from ...contract.errors import NodeError
from ...contract.interrupts import held
from ...contract.node_library import NodeLibrary
from ...contract.output_files import replace_text
from ...language.registry import installed
from ..command_line import wrong
from ..terminal import say, show


def command(arguments: Namespace) -> int:
    """`sgd init`."""
    try:
        name, text = starter(arguments.source, installed().libraries.values())
    except NodeError as error:
        return wrong(str(error), error.help)
    if arguments.out == "-":
        show(text, end="")
        return DONE
    path = Path(arguments.out or f"{name}.yaml")
    if path.exists() and not arguments.overwrite:
        return wrong(f"{path} exists", "pass --overwrite, or another --out")
    try:
        with held():
            replace_text(path, text)
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
