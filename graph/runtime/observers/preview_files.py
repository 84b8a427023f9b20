"""The previews of a run as files, in the folder `previews` of the output folder.

A turn in which a preview is due costs the thread of the run a few small operations, after the time of the node was
taken. Another thread waits for the device, encodes the picture and writes its file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from time import monotonic
from typing import Any

from ...compiler.passes.fold import safe_name
from ...contract.errors import NodeError
from ...contract.events import CallInfo, LoopInfo, Observer, PlanInfo
from ...contract.node import Run
from ...contract.previews import Picture, Previews
from ..context import Context
from ..failure import Interrupted

FOLDER = "previews"

END_SECONDS = 10.0
"""Seconds for which the end of a run waits for the last files."""

INTERRUPTED_SECONDS = 0.1
"""The same after an interrupt. Previews that wait are dropped."""

MOST_WAITING = 8
"""Pictures that wait for the thread that writes them. A preview that finds as many is left out."""


class PreviewFiles(Observer):
    """Writes a preview of every `every`-th turn of a loop.

    Args:
        every: A number of turns.
        previews: The previews of the libraries.
        shown: Called with each file and its bytes, in the thread that writes; None shows none.
    """

    def __init__(
        self, every: int, previews: Sequence[Previews], shown: Callable[[Path, bytes], None] | None = None
    ) -> None:
        self.every, self.shown = every, shown
        self.written: list[Path] = []
        self._hears = {type: one for one in previews for type in one.hears}
        self._loops: list[tuple[str, int]] = []
        self._made: dict[tuple[str, ...], str] = {}
        self._jobs: Queue[tuple[str, dict[str, Any], Picture] | None] = Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._entries: list[dict[str, Any]] = []
        self._problem = ""
        self._left_out = 0
        self._run: Context | None = None

    def beside(self) -> Observer:
        """An observer that does nothing: the calls of a second thread make no previews."""
        return Observer()

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        if isinstance(run, Context):
            self._run = run

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        while self._loops and not loop.id.startswith(f"{self._loops[-1][0]}."):
            self._loops.pop()
        self._loops.append((loop.id, index))

    def loop_finished(self, loop: LoopInfo) -> None:
        while self._loops and (self._loops[-1][0] == loop.id or self._loops[-1][0].startswith(f"{loop.id}.")):
            self._loops.pop()

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        heard = self._hears.get(call.type.name)
        if heard is not None and (call.type.name not in heard.makes or self._due(call)):
            heard.started(call, arguments)

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        heard = self._hears.get(call.type.name)
        if heard is None or call.type.name not in heard.makes or not self._due(call):
            return
        picture = heard.picture(call)
        if picture is None:
            return
        loop, index = self._loops[-1]
        name = self._name(call)
        if self._jobs.full():
            self._left_out += 1
            return
        self._jobs.put_nowait((name, {"loop": loop, "step": index, "node": call.id}, picture))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="sgd previews", daemon=True)
            self._thread.start()

    def _due(self, call: CallInfo) -> bool:
        if not self._loops:
            return False
        loop, index = self._loops[-1]
        return call.id.startswith(f"{loop}.") and (index + 1) % self.every == 0

    def _name(self, call: CallInfo) -> str:
        """`outer.loop-0010`: the loop and the turns that it has done; with the turns of loops around it."""
        loop, index = self._loops[-1]
        around = "".join(f"-{number + 1}" for _, number in self._loops[:-1])
        # A second node of one loop that makes previews has its own name.
        first = self._made.setdefault((loop,), call.id)
        name = loop if first == call.id else call.id
        return f"{safe_name(name)}{around}-{index + 1:04d}.png"

    def _write(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None or self._run is None:
                return
            name, entry, picture = job
            try:
                content = picture()
                file = self._run.write_beside(f"{FOLDER}/{name}", content)
            except Interrupted:
                return
            except NodeError as error:
                self._problem = self._problem or str(error)
                continue
            except Exception as error:
                self._problem = self._problem or f"{type(error).__name__}: {error}"
                continue
            self.written.append(file)
            self._entries.append({"file": f"{FOLDER}/{name}", **entry})
            if self.shown is not None:
                self.shown(file, content)

    def run_finished(self, status: str, error: BaseException | None) -> None:
        if self._thread is not None:
            interrupted = status == "interrupted"
            if interrupted:
                self._drop()
            until = monotonic() + (INTERRUPTED_SECONDS if interrupted else END_SECONDS)
            while self._jobs.full() and monotonic() < until and self._thread.is_alive():
                self._thread.join(0.01)
            if not self._jobs.full():
                self._jobs.put_nowait(None)
            self._thread.join(max(until - monotonic(), 0.0))
        run, self._run = self._run, None
        if run is None:
            return
        for entry in self._entries:
            run.observer.event(None, "preview", entry)
        if self._problem:
            run.observer.warned(None, f"a preview was not written: {self._problem}")
        if self._left_out:
            text = f"{self._left_out} previews were left out: they came faster than they were written"
            run.observer.warned(None, text)
        if status == "done" and not (self.written or self._problem or self._left_out):
            run.observer.warned(None, f"there was no preview: no loop had {self.every} turns")

    def _drop(self) -> None:
        while True:
            try:
                self._jobs.get_nowait()
            except Empty:
                return
