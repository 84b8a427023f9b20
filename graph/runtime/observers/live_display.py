"""Lines at the bottom of a terminal that change while the process works, drawn by rich.

A thread draws them ten times a second. It cannot while a call of another language holds Python's lock, such as the
import of a large extension. Text that the process prints meanwhile goes above the lines. An interrupt that ends the
process erases them first (`graph/contract/interrupts.py`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...contract import interrupts
from ...contract.terminal_text import printable
from .progress_lines import Activity, Turns, activity_line, loop_line

REFRESHES = 10
"""Drawings in a second."""

ERASE = "\r\x1b[2K"
ERASE_ABOVE = "\x1b[1A\x1b[2K"
SHOW_CURSOR = "\x1b[?25h"


class LiveDisplay:
    """Draws one line for each loop that runs, and one for what goes on in it, until it is stopped.

    A terminal that cannot move its cursor (`TERM=dumb`) gets a line of text when `tell` is called, and nothing else.

    Args:
        stream: The terminal. If it replaces control characters (`graph/cli/terminal.py`), the lines go around it.

    Attributes:
        activity: The work that goes on.
        loops: The loops that run, outermost first, by their paths.
        active: Whether lines are drawn now.
    """

    def __init__(self, stream: Any) -> None:
        from rich.console import Console
        from rich.live import Live

        self.activity = Activity("starting")
        self.loops: dict[str, Turns] = {}
        self._stream = stream
        self._screen = _Screen(stream)
        self.console = Console(file=self._screen)  # type: ignore[arg-type]
        self.is_dumb = self.console.is_dumb_terminal
        self.ascii = self.console.options.ascii_only
        self._live = Live(
            console=self.console,
            get_renderable=self._frame,
            transient=True,
            refresh_per_second=REFRESHES,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._printed: list[_Printed] = []
        self.active = False

    def start(self) -> None:
        """Draw from now on. Does nothing if lines are drawn already."""
        if self.is_dumb or self.active:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                with suppress(OSError, ValueError):
                    stream.flush()
                setattr(sys, name, printed := _Printed(stream, self))
                self._printed.append(printed)
        self.active = True
        interrupts.before_end(self._screen.give_up)
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Erase the lines. Printed text stays."""
        if not self.active:
            return
        for printed in self._printed:
            printed.finish()
        self.active = False
        try:
            self._live.stop()
        finally:
            interrupts.before_end(None)
            for name in ("stdout", "stderr"):
                found = getattr(sys, name)
                if isinstance(found, _Printed) and found in self._printed:
                    setattr(sys, name, found.stream)

    def tell(self, text: str) -> None:
        """Write a line to a terminal that cannot move its cursor."""
        if self.is_dumb:
            print(printable(text), file=self._stream, flush=True)

    def write(self, text: str, style: str = "") -> None:
        """Print text above the lines. It cannot control the terminal, and is wrapped by the terminal alone."""
        from rich.text import Text

        self.console.print(Text(printable_lines(text), style=style), soft_wrap=True)

    def write_picture(self, sequence: str) -> None:
        """Print an escape sequence that shows a picture above the lines."""
        from rich.segment import ControlType, Segment, Segments

        # As a control segment, rich writes it as it is.
        self.console.print(Segments([Segment(sequence, None, [(ControlType.BELL,)])], new_lines=True), soft_wrap=True)

    def _frame(self) -> Any:
        from rich.console import Group

        width = self.console.width
        lines = [loop_line(turns, width, self.ascii) for turns in list(self.loops.values())]
        lines.append(activity_line(self.activity, width, self.ascii))
        self._screen.next_height = len(lines)
        return Group(*lines)


class _Screen:
    """The terminal as a file for rich. It is quiet once an interrupt has ended the process."""

    encoding = "utf-8"

    def __init__(self, stream: Any) -> None:
        self._stream = getattr(stream, "unguarded", stream)
        self.encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._height = 0
        self.next_height = 0
        self._given_up = False
        try:
            self._descriptor: int | None = self._stream.fileno()
        except (OSError, ValueError, AttributeError):
            self._descriptor = None  # a file in memory

    def write(self, text: str) -> int:
        if self._descriptor is None:
            self._stream.write(text)
        else:
            rest = text.encode(self.encoding, "backslashreplace")
            try:
                while rest and not self._given_up:
                    # Nothing lets another thread run between the test and the call.
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:  # the terminal was closed; the command goes on
                return len(text)
        self._height = self.next_height
        return len(text)

    def flush(self) -> None:
        if self._descriptor is None:
            self._stream.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._descriptor is None:
            raise OSError("a file in memory")
        return self._descriptor

    def give_up(self) -> None:
        """Erase the lines and write nothing more. An interrupt calls this between any two instructions."""
        self._given_up = True
        if self._descriptor is not None:
            text = ERASE + ERASE_ABOVE * max(self._height - 1, 0) + SHOW_CURSOR
            os.write(self._descriptor, text.encode("ascii"))


class _Printed:
    """A standard stream whose text goes above the lines, line by line, while they are drawn."""

    def __init__(self, stream: Any, display: LiveDisplay) -> None:
        self.stream, self._display = stream, display
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        if not self._display.active:
            self.stream.write(text)
            return len(text)
        with self._lock:
            # A bar of another package begins each of its states so, and writes over the last one.
            before = "" if text.startswith("\r") else self._rest
            whole, newline, self._rest = (before + text.removeprefix("\r")).rpartition("\n")
        if newline:
            self._display.write(whole)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        self.write("".join(lines))

    def finish(self) -> None:
        """Print what has no line break at its end."""
        with self._lock:
            rest, self._rest = self._rest, ""
        if rest.strip():
            self._display.write(rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def printable_lines(text: str) -> str:
    """Text in lines, without other characters that control the terminal."""
    return printable(text.replace("\t", " "))
