"""The progress display of a run, on stderr: phases, components being loaded, loops with the time left, the node.

Where stderr is no terminal, only warnings are written, so that logs stay short. A terminal that cannot move its cursor
(`TERM=dumb`) gets a line for each phase and component, and one now and then for a loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from ...contract.events import CallInfo, HolderInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from ...contract.terminal_text import printable
from .live_display import LiveDisplay
from .progress_lines import Activity, Turns, loop_text, one_line

PLAIN_SECONDS = 10.0
"""Seconds between two lines about one loop on a terminal that cannot move its cursor."""


class Progress(Observer):
    """Shows the progress of a run. Writes only warnings if `stream` is not a terminal.

    Names and messages cannot control the terminal. `with Progress() as shown:` shows it from before the run until
    after it; without that, it is shown from the start of the run to its end.

    Args:
        stream: Where to show it; stderr if not given.
        display: A display that is under way.
    """

    def __init__(self, stream: Any = None, display: LiveDisplay | None = None) -> None:
        self.stream = stream or sys.stderr
        self.enabled = self.stream is not None and self.stream.isatty()
        self._display = display
        self._told = 0.0
        self._comparing = 0.0

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Show the display, if the stream is a terminal."""
        if self.enabled and self._display is None:
            self._display = LiveDisplay(self.stream)
        if self._display is not None:
            self._display.start()

    def stop(self) -> None:
        """Take the display away."""
        if self._display is not None:
            self._display.stop()

    def phase(self, text: str) -> None:
        """Show the work that goes on outside of nodes, such as `importing torch`."""
        self._show(Activity(text))
        self._tell(text)

    def picture(self, sequence: str) -> None:
        """Show a picture above the display. The escape sequence has it."""
        if self._display is not None and self._display.active:
            self._display.write_picture(sequence)

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        self.start()

    def run_finished(self, status: str, error: BaseException | None) -> None:
        self.stop()

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._show(Activity(call.id))

    def part_loading(self, call: CallInfo | None, part: str, total: int, loaded: Callable[[], int]) -> None:
        text = f"loading {part}"
        before = self._display.activity if self._display is not None else None
        same = before is not None and before.text == one_line(text)
        self._show(Activity(text, total, loaded, is_bytes=True, began=before.began if before and same else None))
        if not same:
            self._tell(text)

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self._show(Activity(f"loaded {part}"))

    def progress(self, call: CallInfo | None, done: int, total: int, label: str) -> None:
        if self._display is None:
            return
        name = " ".join(w for w in (call.id if call is not None else "", label) if w)
        before = self._display.activity
        self._show(Activity(name, total, lambda: done, began=before.began if before.text == name else None))

    def warned(self, call: CallInfo | None, message: str) -> None:
        text = f"warning: {call.id}: {message}" if call is not None else f"warning: {message}"
        if self._display is not None and self._display.active:
            self._display.write(printable(text), "yellow")
        elif self.stream is not None:
            print(printable(text), file=self.stream)

    def comparing(self, output: str, frames: int) -> None:
        self.start()  # the end of the run took the display away
        text = f"comparing {output}"
        if not frames:
            self._comparing = monotonic()
            self._tell(text)
        self._show(Activity(f"{text}: frame {frames}" if frames else text, began=self._comparing))

    def compared(self) -> None:
        self.stop()

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        if self._display is not None:
            self._display.loops[loop.id] = Turns(loop.id, turns)

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        if self._display is None:
            return
        turns = self._display.loops[loop.id]
        turns.finished(index)
        if monotonic() - self._told > PLAIN_SECONDS:
            self._tell(loop_text(turns))

    def loop_finished(self, loop: LoopInfo) -> None:
        if self._display is not None:
            self._display.loops.pop(loop.id, None)

    def beside(self) -> Observer:
        """An observer that shows the loops and warnings of a second thread, but not its current activity."""
        return _Beside(self)

    def _show(self, activity: Activity) -> None:
        if self._display is not None:
            self._display.activity = activity

    def _tell(self, text: str) -> None:
        if self._display is not None:
            self._told = monotonic()
            self._display.tell(text)


class _Beside(Observer):
    def __init__(self, shown: Progress) -> None:
        self.shown = shown

    def warned(self, call: CallInfo | None, message: str) -> None:
        self.shown.warned(call, message)

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self.shown.loop_started(loop, turns)

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        self.shown.turn_finished(loop, index, seconds)

    def loop_finished(self, loop: LoopInfo) -> None:
        self.shown.loop_finished(loop)
