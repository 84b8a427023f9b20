"""Files that grow during a run and appear under their name at its end: traces, and statistics of values."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ...contract.errors import NodeError
from ...contract.output_files import temporary_path
from ...contract.text_tables import shortened
from ..record_values import clean

_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class GrowingFile:
    """A text file that is written under another name beside it, and renamed when it is complete.

    Memory holds none of it, and any thread may add to it.

    Args:
        path: The file; relative to the current folder.
        overwrite: Whether a file that exists is replaced.
        option: The option that names it, for messages.

    Raises:
        NodeError: If it exists, or cannot be written.
    """

    def __init__(self, path: Path | str, overwrite: bool, option: str) -> None:
        self.path, self._lock = Path.cwd() / path, threading.Lock()
        exists = True
        try:
            if not str(path) or self.path.is_dir():
                raise NodeError(f"{option} {str(path)!r} is not the name of a file", help="name the file to write")
            self.path.lstat()
        except FileNotFoundError:
            exists = False
        except (OSError, ValueError) as error:
            raise _unwritable(option, path, error) from error
        if exists and not overwrite:
            raise NodeError(f"{option}: {self.path} exists", help="pass --overwrite, or another name")
        self._temporary = temporary_path(self.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            raise _unwritable(option, path, error) from error
        # A lone surrogate becomes its escape, which is JSON too.
        file = open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1 << 16)  # noqa: SIM115
        self._file: TextIO | None = file

    def add(self, text: str) -> None:
        """Add text. Nothing is added to a file that is complete.

        Raises:
            OSError: If it cannot be written.
        """
        with self._lock:
            if self._file is not None:
                self._file.write(text)

    def complete(self, end: str = "") -> None:
        """Add the end, and give the file its name.

        Raises:
            OSError: If it cannot be written.
        """
        with self._lock:
            file, self._file = self._file, None
            if file is None:
                return
            with file:
                file.write(end)
            self._temporary.replace(self.path)

    def drop(self) -> None:
        """Remove what was written of a file that is not complete."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                with suppress(OSError):
                    file.close()
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)


class TextParts:
    """Text that grows in memory. Any thread may add to it."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        """Add text."""
        self._parts.append(text)

    def text(self) -> str:
        """The whole text. A lone surrogate becomes an escape sequence, so that the text is valid JSON."""
        return "".join(list(self._parts)).encode("utf-8", "backslashreplace").decode("utf-8")


def _unwritable(option: str, path: Path | str, error: OSError | ValueError) -> NodeError:
    reason = getattr(error, "strerror", None) or error
    return NodeError(f"{option}: {shortened(path)} cannot be written: {reason}", help="name another file")


def finish(file: GrowingFile, say: Callable[[str], None], end: str = "") -> None:
    """Complete a file; say so if it cannot be written, for the run itself is not at fault."""
    try:
        file.complete(end)
    except OSError as error:
        say(f"{file.path} cannot be written: {error.strerror or error}")


def as_json(value: Mapping[str, Any]) -> str:
    """One line of JSON. Numbers that are not finite become text.

    Characters outside of ASCII stay: Perfetto shows their escapes as they stand.
    """
    try:
        return _ENCODE(value)
    except (TypeError, ValueError):
        return _ENCODE(clean(value))
