"""Files that a node reads, checked before a run: whether they are there, and are files. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from ...graph.contract.diagnostics import Diagnostic
from ...graph.contract.errors import NodeError


def file_problems(path: str | None, parameter: str = "path") -> Iterator[Diagnostic]:
    """The problem of a path, at a parameter, that is no file with something in it.

    Args:
        path: An absolute path; None if it is not known yet.
        parameter: The parameter with the path.
    """
    if path is None:
        return
    try:
        require_file(Path(path))
    except NodeError as error:
        yield Diagnostic("bad-value", str(error), parameter, help=error.help)


def require_file(path: Path) -> None:
    """Check that a path is a file with something in it.

    Raises:
        NodeError: If it is not.
    """
    name = shown(path)
    try:
        if not path.exists():
            raise NodeError(f"there is no file {name}", help=nearby(path))
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file"
            raise NodeError(f"{name} cannot be read: it is {kind}", help="give a file")
        if path.stat().st_size == 0:
            raise NodeError(f"{name} is empty", help="write or copy the file again")
        if not os.access(path, os.R_OK):
            raise NodeError(f"{name} cannot be read: Permission denied", help="change the rights of the file")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NodeError(f"{name[:200]} cannot be read: {reason}") from error


def nearby(path: Path) -> str | None:
    """A help line: an entry of the same folder with a similar name, or the first folder of the path that is missing."""
    try:
        if path.parent.is_dir():
            names = [entry.name for entry, _ in zip(path.parent.iterdir(), range(2000), strict=False)]
            found = get_close_matches(path.name, names, 1, 0.6)
            return f"did you mean `{found[0]}`?" if found else None
        missing = path.parent
        while not missing.parent.is_dir() and missing.parent != missing:
            missing = missing.parent
        return f"there is no folder {shown(missing)}"
    except OSError:
        return None


def shown(path: str | Path) -> str:
    """A path as people write it: relative to the current folder if it lies below it."""
    try:
        here = os.path.relpath(path)
    except (OSError, ValueError):
        return str(path)
    return str(path) if here.startswith("..") else here
