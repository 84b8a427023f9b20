"""The progress display: loops, long nodes and components being loaded, on stderr, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ...contract.events import CallInfo, HolderInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from ...contract.terminal_text import printable


class Progress(Observer):
    """Shows the progress of a run. Writes only warnings if `stream` is not a terminal.

    Names and messages cannot control the terminal. If the stream replaces control characters (`graph/cli/terminal.py`),
    the bars go around it; text that nodes print meanwhile goes through `_Printed`.
    """

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream or sys.stderr
        self.enabled = self.stream is not None and self.stream.isatty()
        self._bars: Any = None
        self._streams: tuple[Any, Any] = (None, None)
        self._loops: dict[str, Any] = {}
        self._node: Any = None

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        if not self.enabled:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(file=getattr(self.stream, "unguarded", self.stream)),
            transient=True,
        )
        self._streams = sys.stdout, sys.stderr
        self._bars.start()
        sys.stdout, sys.stderr = _Printed(sys.stdout), _Printed(sys.stderr)  # rich has replaced them
        self._node = self._bars.add_task("starting", total=None)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            sys.stdout, sys.stderr = self._streams

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._show(call.id)

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        self._show(f"loaded {part}")

    def progress(self, call: CallInfo | None, done: int, total: int, label: str) -> None:
        name = " ".join(w for w in (call.id if call is not None else "", label) if w)
        self._show(name, completed=done, total=total)

    def warned(self, call: CallInfo | None, message: str) -> None:
        text = f"warning: {call.id}: {message}" if call is not None else f"warning: {message}"
        if self._bars is not None:
            self._bars.console.print(printable(text), style="yellow", markup=False, highlight=False)
        elif self.stream is not None:
            print(printable(text), file=self.stream)

    def _show(self, text: str, completed: int = 0, total: int | None = None) -> None:
        if self._bars is not None:
            self._bars.update(self._node, description=_plain(text), completed=completed, total=total)

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        if self._bars is not None:
            self._loops[loop.id] = self._bars.add_task(_plain(loop.id), total=turns)

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        if self._bars is not None:
            self._bars.advance(self._loops[loop.id])

    def loop_finished(self, loop: LoopInfo) -> None:
        if self._bars is not None:
            self._bars.remove_task(self._loops.pop(loop.id))


class _Printed:
    """A stream of rich that takes text of nodes, without characters that control the terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text.replace("\t", " ")))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _plain(text: str) -> str:
    """Text in one line, without markup of rich."""
    from rich.markup import escape

    return escape(" ".join(printable(text).split()))
