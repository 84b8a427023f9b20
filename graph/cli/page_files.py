"""Files that a command writes for people: pages and drawings."""

from __future__ import annotations

from pathlib import Path

from ..contract.errors import NodeError
from ..contract.output_files import replace_text
from ..contract.text_tables import shortened

OURS = b'<meta name="generator" content="sgd">'
"""Text at the beginning of every page that sgd made."""


def target_of(out: str, overwrite: bool) -> Path:
    """The file that `--out` names.

    Raises:
        NodeError: If it is a folder, or exists and may not be replaced.
    """
    if out == "":
        raise NodeError("--out is empty", help="name a file, or leave out --out")
    return _checked(Path(out), overwrite)


def page_beside(folder: Path, name: str) -> Path:
    """A page with a name that sgd chooses. It replaces an older page of sgd, and no other file.

    Raises:
        NodeError: If there is another file of that name.
    """
    path = folder / name
    try:
        with path.open("rb") as file:
            ours = OURS in file.read(4096)
    except OSError:
        ours = False
    return _checked(path, ours)


def _checked(path: Path, overwrite: bool) -> Path:
    try:
        if path.is_dir():
            raise NodeError(f"{shortened(path)} is a folder", help="name a file with --out")
        if path.exists() and not overwrite:
            raise NodeError(f"{shortened(path)} exists", help="pass --overwrite, or another --out")
    except (OSError, ValueError) as error:
        raise NodeError(f"cannot write to {shortened(path)}: {_reason(error)}", help="choose another --out") from error
    return path


def write_page(path: Path, text: str) -> None:
    """Write a file in one step.

    Raises:
        NodeError: If it cannot be written.
    """
    try:
        replace_text(path, text)
    except (OSError, ValueError) as error:
        raise NodeError(f"cannot write {shortened(path)}: {_reason(error)}", help="choose another --out") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
