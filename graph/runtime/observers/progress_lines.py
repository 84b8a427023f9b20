"""One line of the progress display: a name, a bar, numbers, and the time left. It fits the width of the terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from ...contract.terminal_text import printable
from ...contract.text_tables import cells, count

if TYPE_CHECKING:
    from rich.text import Text

LONGEST_BAR, SHORTEST_BAR = 40, 6
SAMPLE_SECONDS = 0.25
"""Seconds for which a number of loaded bytes is kept: the function that gives it may be slow."""

MANY = 100_000
"""Totals from here on are written with a prefix: 1.42 G."""

SPINNER, ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
TURNS_A_SECOND = 10


class Activity:
    """The work that goes on: a phase, a component being loaded, or a node.

    Args:
        text: Its name.
        total: Its size; None if it is not known.
        done: Gives how much of it is done.
        is_bytes: Whether both are bytes.
        began: When it began, by `time.monotonic`; now if not given.
    """

    def __init__(
        self,
        text: str,
        total: int | None = None,
        done: Callable[[], int] | None = None,
        is_bytes: bool = False,
        began: float | None = None,
    ) -> None:
        self.text, self.total, self.is_bytes = one_line(text), total, is_bytes
        self.began = monotonic() if began is None else began
        self._done = done
        self._value, self._sampled = 0, 0.0

    def done(self) -> int:
        """How much is done."""
        now = monotonic()
        if self._done is not None and (not self.is_bytes or now - self._sampled >= SAMPLE_SECONDS):
            self._sampled = now
            with suppress(Exception):  # code of a node
                self._value = min(self._done(), self.total or 0)
        return self._value


class Turns:
    """The turns of a loop, and the time that is left.

    The first turn may load and compile, so the later ones say how long a turn takes, once there are some.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.timed = one_line(name), total, 0, 0
        self.began = self.last = monotonic()
        self.first: float | None = None

    def finished(self, index: int) -> None:
        """The turn with this number has ended. The turns before the first one that is told were in another process."""
        self.done = index + 1
        self.timed += 1
        self.last = monotonic()
        if self.first is None:
            self.first = self.last

    def left(self) -> float | None:
        """Seconds until the loop ends; None before its first turn has ended."""
        if self.first is None:
            return None
        each = (self.last - self.first) / (self.timed - 1) if self.timed > 1 else self.first - self.began
        return max(each * (self.total - self.done) - (monotonic() - self.last), 0.0)


def loop_text(turns: Turns) -> str:
    """A loop's line for a terminal that cannot move its cursor."""
    left = turns.left()
    return f"{turns.name}: {turns.done} of {turns.total}" + (f", {clock(left)} left" if left is not None else "")


def loop_line(turns: Turns, width: int, ascii: bool = False) -> Text:
    """`  outer.loop  ━━━━━━━━━━━━━━━━  6/20  0:12 left`."""
    left = turns.left()
    numbers = f"{turns.done}/{turns.total}" + (f"  {clock(left)} left" if left is not None else "")
    return _line(" ", turns.name, turns.done / turns.total if turns.total else 1.0, numbers, width, ascii)


def activity_line(activity: Activity, width: int, ascii: bool = False) -> Text:
    """`⠹ loading encoder  ━━━━━━━━━━━  1.21 of 2.80 GiB  0:03`, or without a bar where no total is known."""
    frames = ASCII_SPINNER if ascii else SPINNER
    passed = monotonic() - activity.began
    spinner = frames[int(monotonic() * TURNS_A_SECOND) % len(frames)]
    share, numbers = None, clock(passed)
    if activity.total:
        done = activity.done()
        share = done / activity.total
        if activity.is_bytes:
            numbers = f"{count(done, 'B', 1024) if done else '0 B'} of {count(activity.total, 'B', 1024)}  {numbers}"
        elif activity.total >= MANY:
            numbers = f"{count(done) if done else 0} of {count(activity.total)}  {numbers}"
        else:
            numbers = f"{done}/{activity.total}  {numbers}"
    return _line(spinner, activity.text, share, numbers, width, ascii)


def _line(mark: str, name: str, share: float | None, numbers: str, width: int, ascii: bool) -> Text:
    from rich.cells import set_cell_size
    from rich.text import Text

    # The last column stays empty: some terminals begin a new line once it is written.
    room = max(width - 1 - cells(mark) - 1 - cells(numbers) - 2, 1)
    longest = room
    bar = 0
    if share is not None and room - 2 - SHORTEST_BAR >= 10:
        bar = max(SHORTEST_BAR, min(LONGEST_BAR, room - 2 - cells(name)))
        longest = room - 2 - bar
    dots = "..." if ascii else "…"
    if cells(name) > longest:
        name = set_cell_size(name, max(longest - len(dots), 0)).rstrip() + dots[:longest]
    line = Text(f"{mark} ", style="cyan", no_wrap=True, overflow="crop")
    line.append(name, style="bold" if bar and mark == " " else "default")
    if bar:
        full = round(bar * min(max(share or 0.0, 0.0), 1.0))
        line.append("  ")
        line.append(("#" if ascii else "━") * full, style="cyan")
        line.append(("." if ascii else "─") * (bar - full), style="bright_black")
    line.append(f"  {numbers}", style="default")
    return line


def clock(seconds: float) -> str:
    """Minutes and seconds, `1:05`, or hours, `1:02:03`."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def one_line(text: str) -> str:
    """Text in one line, without characters that control the terminal."""
    return " ".join(printable(text).split())
