"""Temporary files beside output files: nobody can guess their names, and no reader sees half of an output file."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from .errors import NodeError

TEMPORARY = re.compile(r"\.sgd-[0-9a-f]{32}\.part")
"""The names of temporary files."""


def temporary_path(target: Path) -> Path:
    """A path beside `target` that nobody can guess."""
    return target.with_name(f".sgd-{secrets.token_hex(16)}.part")


def create(path: Path) -> None:
    """Create an empty file.

    Raises:
        OSError: If there is a file or a link of this name already, or the file cannot be created.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))


def unwritable(target: Path, error: OSError, help: str | None = None) -> NodeError:
    """The error of a file that cannot be written."""
    return NodeError(f"{target} cannot be written: {error.strerror or error}", help=help)


def new_temporary(target: Path) -> Path:
    """A new empty file beside `target`.

    Raises:
        NodeError: If it cannot be created.
    """
    made = temporary_path(target)
    try:
        create(made)
    except OSError as error:
        raise unwritable(target, error) from error
    return made


def replace_text(path: Path, text: str, temporary: Path | None = None) -> None:
    """Write a text file in one step. A link of that name is replaced, not followed.

    Args:
        path: The file.
        text: Its text, stored as UTF-8. A lone surrogate is stored as its escape.
        temporary: The path that is written first, beside `path`; a new one if not given.

    Raises:
        OSError: If the file cannot be written. The old file is unchanged then.
    """
    temporary = temporary or temporary_path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        with open(os.open(temporary, flags, 0o666), "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
