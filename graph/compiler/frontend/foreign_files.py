"""foreign_files: ask the node libraries about a file that is no workflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ...contract.diagnostics import Diagnostic
from ...contract.errors import Problems
from ...contract.node_library import NodeLibrary
from ...contract.source_spans import Span
from ...language.document import Document
from .expand import Files


def open_workflow(path: Path, name: str, files: Files, libraries: Iterable[NodeLibrary]) -> Document:
    """Read and parse a workflow file.

    Raises:
        Problems: If the file cannot be read or parsed. If a node library knows it as the file of another program, there
            is one problem, which says so.
    """
    try:
        document = files.open(path, name)
    except Problems:
        refuse_foreign(path, name, files, libraries)
        raise
    if not document.has_version:
        refuse_foreign(path, name, files, libraries)
    return document


def refuse_foreign(path: Path, name: str, files: Files, libraries: Iterable[NodeLibrary]) -> None:
    found = foreign_problem(path, libraries)
    if found is not None:
        files.problems.clear()
        files.sources.pop(name, None)  # a frame of a generated file says nothing
        raise Problems([replace(found, place=Span(name, 1, 1, 1, 2))]) from None


def foreign_problem(path: Path, libraries: Iterable[NodeLibrary]) -> Diagnostic | None:
    """The problem of a file of another program, from the first library that knows it."""
    try:
        if not path.is_file():
            return None
    except (OSError, ValueError):
        return None  # no path
    return next((found for each in libraries if (found := each.foreign_file(path)) is not None), None)
