"""Commands in a pseudo terminal, and the screen that they draw, by the terminal emulator pyte."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyte


@dataclass
class Session:
    """The picture that a command drew.

    Attributes:
        code: Its exit code; negative for a signal.
        raw: All bytes that it wrote.
        times: Seconds from the start until each piece was read, with the lines of the screen then.
        screen: The screen at the end.
    """

    code: int = 0
    raw: bytes = b""
    times: list[tuple[float, list[str]]] = field(default_factory=list)
    screen: pyte.HistoryScreen | None = None

    @property
    def text(self) -> str:
        return self.raw.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        """All lines at the end, those that scrolled out of the screen first."""
        assert self.screen is not None
        above = ["".join(line[n].data for n in range(self.screen.columns)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    def first(self, text: str) -> float:
        """Seconds until a text stood on the screen."""
        return next(seconds for seconds, lines in self.times if any(text in line for line in lines))


def sgd(
    *words: str,
    folder: Path,
    columns: int = 80,
    rows: int = 50,
    environment: Mapping[str, str] | None = None,
    interrupt: Callable[[list[str]], bool] | None = None,
    stdout: int | None = None,
) -> Session:
    """Run `sgd` with these words in a terminal.

    Args:
        words: The words after `sgd`.
        folder: The current folder.
        columns: Width of the terminal.
        rows: Height of the terminal.
        environment: Further variables.
        interrupt: Called with the lines of the screen. Once it is true, the command gets SIGINT.
        stdout: A file for stdout in place of the terminal.
    """
    return in_terminal([sys.executable, "-m", "sgd", *words], folder, columns, rows, environment, interrupt, stdout)


def in_terminal(
    words: Sequence[str],
    folder: Path,
    columns: int = 80,
    rows: int = 50,
    environment: Mapping[str, str] | None = None,
    interrupt: Callable[[list[str]], bool] | None = None,
    stdout: int | None = None,
) -> Session:
    """Run a command in a terminal; see `sgd`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    found = Session(screen=pyte.HistoryScreen(columns, rows, history=5000))
    assert found.screen is not None
    stream = pyte.ByteStream(found.screen)
    began = time.monotonic()
    process = subprocess.Popen(
        words,
        cwd=folder,
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **(environment or {})},
    )
    os.close(theirs)
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        found.raw += part
        stream.feed(part)
        lines = [line.rstrip() for line in found.screen.display if line.strip()]
        found.times.append((time.monotonic() - began, lines))
        if interrupt is not None and interrupt(lines):
            process.send_signal(signal.SIGINT)
            interrupt = None
    os.close(ours)
    found.code = process.wait()
    return found
