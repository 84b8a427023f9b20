"""The standard streams of the command line: text of users cannot control the terminal, and no text is an error.

Control characters are replaced, such as the first of an escape sequence. Characters that the encoding lacks are written
as escapes. Text for a reader that has gone is dropped; the command goes on, and its exit code is its own.
"""

from __future__ import annotations

import errno
import io
import re
import sys
from contextlib import suppress
from typing import Any, TextIO

from ..contract.terminal_text import printable

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""As `printable`, without tabs and carriage returns: progress bars of other packages need them."""

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET)
"""Errors of a stream that nobody reads: a pipe, a terminal or a file that was closed."""


def show(text: str = "", end: str = "\n") -> None:
    """Print text for people on stdout."""
    print(printable(text), end=end)


def say(text: str) -> None:
    """Print text for people on stderr."""
    if sys.stderr is not None:  # `print` would write to stdout
        print(printable(text), file=sys.stderr)


class Guarded(io.TextIOWrapper):
    """A standard stream that replaces control characters, and drops text once nobody reads it.

    Attributes:
        unguarded: A stream to the same place for text with escape sequences of our own.
        required: Text that cannot be written is an error, such as for a full disk. On stderr nobody could read of it.
    """

    unguarded: TextIO
    required = True

    def write(self, text: str, /) -> int:
        try:
            super().write(CONTROL.sub("\ufffd", text))
        except OSError as error:
            _drop(self, error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _drop(self, error)


class Unguarded(Guarded):
    """A standard stream that drops text once nobody reads it."""

    def write(self, text: str, /) -> int:
        try:
            io.TextIOWrapper.write(self, text)
        except OSError as error:
            _drop(self, error)
        return len(text)


def _drop(stream: Guarded, error: OSError) -> None:
    """Send what a stream still holds, and what comes, to nobody. Raises the error if the stream has another problem."""
    if stream.required and error.errno not in GONE:
        raise error
    import os

    nobody = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nobody, stream.fileno())
    finally:
        os.close(nobody)


def guard() -> None:
    """Guard the standard streams of this process."""
    sys.stdout = _guarded(sys.stdout, bool(sys.stdout.line_buffering))
    sys.stderr = _guarded(sys.stderr, True)
    sys.stderr.required = sys.stderr.unguarded.required = False  # type: ignore[attr-defined]


def flush() -> None:
    """Write what the standard streams still hold, as far as possible."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


def _guarded(stream: Any, by_line: bool) -> Any:
    options: dict[str, Any] = {
        "encoding": stream.encoding,
        "errors": "backslashreplace",
        "line_buffering": by_line,
    }
    made = Guarded(stream.detach(), **options)
    made.unguarded = Unguarded(made.buffer, **options)
    return made


def stdout_width() -> int | None:
    """Columns of the terminal that stdout is; None if it is a file or a pipe, which gets whole tables."""
    import os

    if sys.stdout is None or not sys.stdout.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None
