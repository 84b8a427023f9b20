"""Folders of workflows, and the files in them: those that come with sgd, and those of installed libraries."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

NODES_GROUP = "sgd.nodes"
WORKFLOWS_GROUP = "sgd.workflows"


def workflow_folder(library: str) -> Path | None:
    """The folder of workflows that an installed library offers (entry point group `sgd.workflows`)."""
    for point in entry_points(group=WORKFLOWS_GROUP, name=library):
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return None


def bundled_path(text: str) -> Path | None:
    """The file or folder of an installed library that a text names, such as `sgd:images/boat.png`.

    Returns:
        An absolute path, whether a file exists there or not. None if the text does not begin with the name of a
        library, or the path lies outside of the library's folder.
    """
    library, colon, name = text.partition(":")
    folder = workflow_folder(library) if colon and library and name else None
    if folder is None:
        return None
    path = Path(os.path.abspath(folder / name))
    return path if path.is_relative_to(os.path.abspath(folder)) else None


def bundled_name(path: Path) -> str | None:
    """The name of a file of an installed library, such as `sgd:images/boat.png`; None for every other file."""
    place = path.resolve()
    for library, folder in _folders():
        if place.is_relative_to(folder):
            return f"{library}:{place.relative_to(folder).as_posix()}"
    return None


@cache
def _folders() -> tuple[tuple[str, Path], ...]:
    """Name and folder of each installed library that offers workflows."""
    found = []
    for point in entry_points(group=WORKFLOWS_GROUP):
        folder = workflow_folder(point.name)
        if folder is not None:
            found.append((point.name, folder.resolve()))
    return tuple(found)


def bundled_workflows() -> Path:
    """The folder of the bundled workflows."""
    spec = importlib.util.find_spec("sgd.workflows")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
