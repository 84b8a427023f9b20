"""The second thread of a run: an executor of its own for the tails of one loop, with its own times and entries."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter
from typing import Any

from ...compiler.overlaps import Overlap
from ...contract.events import Beside, CallInfo, Observer, Observers
from ...contract.second_stream import SecondStream
from ...resume.position import FinishedEffect, Position, Start
from ..arguments import Environment
from ..clock import OTHER
from ..execute import Executor
from ..failure import Interrupted
from ..import_times import watched
from ..library_contexts import around_run
from ..observers.profile import Row
from ..record import Recorder
from ..record_marks import Mark
from ..stored_steps import StoredSteps
from .handover import Handover
from .other_device import OtherDevice
from .overlapped_time import Effect, OverlappedTime, Times

WAITING = "(overlap)"
"""Name in the clock of waits for the second thread. The rows of that thread's nodes contain this time."""


class Effects(Observer):
    """Notes the effects of a second thread: their times, and the finished ones, which a resumed run need not call.

    Args:
        rows: The measurements of calls. Those of a call are there before this observer hears of its end.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self.called: list[Effect] = []
        self.finished: list[FinishedEffect] = []
        self._began = 0.0
        self._before = 0.0

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        self._began, self._before = perf_counter(), self._seconds(call)

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        if call.type.effect:
            self.called.append(((self._began, perf_counter()), self._seconds(call) - self._before))

    def _seconds(self, call: CallInfo) -> float:
        row = self.rows.get(call.id)
        return row.seconds if row is not None else 0.0

    def reached(self, position: Position) -> None:
        pass

    def unkept(self, loop: str, turn: int, reason: str) -> None:
        pass

    def effect_finished(self, effect: FinishedEffect) -> None:
        self.finished.append(effect)


class Lane(ABC):
    """The second thread, for the tails of one loop.

    Args:
        overlap: The loop and its tails.
        main: The executor of the run, with the loop under way.
        recorder: The recorder of the run.
        stored: The store around the steps of the run; None without one.
        first: The number of the first turn whose tail it runs.
        other: The device of the tails; None if it is that of the run.

    Attributes:
        mark: The place in the record for its new entries; None if there are none.
    """

    def __init__(
        self,
        overlap: Overlap,
        main: Executor,
        recorder: Recorder,
        stored: StoredSteps | None,
        first: int,
        other: OtherDevice | None,
    ) -> None:
        self.overlap, self.main, self.recorder, self.other = overlap, main, recorder, other
        device = main.run.device if other is None else other.device
        self.handover = Handover(first)
        self.mark: Mark | None = None
        self.clock = recorder.clock.beside()
        self.own = recorder.beside(main.plan, main.run.on(device), self.clock, same_device=other is None)
        self.effects = Effects(self.own.profile.rows)
        heard = main.observer.observers if isinstance(main.observer, Observers) else [main.observer]
        others = [each for each in heard if each not in recorder.observers]
        beside = [each.beside() if isinstance(each, Beside) else each for each in others]
        observer = Observers([*self.own.observers, self.effects, *beside])
        self.context = main.run.beside(observer, device)
        before = main.loops.start.effects if main.loops.start is not None else {}
        before = {place: replace(effect, outputs=self.there(effect.outputs)) for place, effect in before.items()}
        self.executor = Executor(
            main.plan,
            self.context,
            observer,
            main.stop,
            positions=self.effects,
            start=Start(Position((), {}, {}), frozenset(), before),
            wrap=stored.beside(self.own, self.there) if stored is not None else None,
        )
        self.streams: Sequence[SecondStream] = (
            [library.second_stream(main.run) for library in main.plan.libraries] if other is None else other.links
        )
        self.waits: list[Times] = []
        self.waited = recorder.clock.seconds_of(WAITING)
        self.thread = threading.Thread(target=self._work, name="sgd overlap", daemon=True)

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            with ExitStack() as stack:
                stack.enter_context(self.main.run.as_other(self.context))
                self.clock.adopt()
                self.clock.serve(f"{OTHER} executor")
                stack.enter_context(watched(self.clock))
                stack.enter_context(around_run(self.main.plan, self.context, packages=False))
                for stream in self.streams:
                    stack.enter_context(stream.beside())
                self.turns()
                self.executor.finish_checks()
        except Interrupted:
            pass
        except BaseException as caught:
            error = caught
        finally:
            self.handover.end(error)

    @abstractmethod
    def turns(self) -> None:
        """In the second thread: run the tails of all turns."""

    @abstractmethod
    def taken_back(self) -> None:
        """In the thread of the run: take the results of the tails that are finished."""

    def marks(self) -> list[Any]:
        """For each library, a mark after the work that this thread has given to the device so far."""
        return [stream.given() for stream in self.streams]

    def after(self, marks: Sequence[Any], values: Sequence[Any]) -> None:
        """Make later device work of this thread wait for marks of the other thread, whose values it uses."""
        for stream, mark in zip(self.streams, marks, strict=True):
            stream.taken(mark, values)

    def there(self, values: Mapping[Any, Any]) -> Environment:
        """Values of the run by key, on the device of the tails."""
        return dict(values) if self.other is None else self.other.there(values)

    def back(self, values: Mapping[Any, Any]) -> Environment:
        """Values of the tails by key, on the device of the run."""
        return dict(values) if self.other is None else self.other.back(values)

    def wait(self) -> None:
        """In the thread of the run: wait for the tails that were given, and take their results.

        Raises:
            NodeFailed: If one of them failed.
        """
        if not self.handover.idle:
            began = perf_counter()
            with self.recorder.clock.during(WAITING):
                self.handover.wait(self._tell)
            self.waits.append((began, perf_counter()))
        self.take()

    def take(self) -> None:
        """Take the results of the tails that are finished, and raise the error of one that failed."""
        is_new = self.mark is not None
        self.note()
        self.require_success()
        if is_new:
            self.taken_back()

    def note(self) -> None:
        """Insert the new entries into the record at their place."""
        if self.mark is not None:
            self.recorder.insert(self.own, self.mark)
            self.mark = None

    def require_success(self) -> None:
        """Raise the error that ended the second thread, if there was one."""
        if self.handover.error is not None:
            raise self.handover.error

    def tell_effects(self) -> None:
        """Report the finished effects to snapshots, so that a resumed run does not call them again."""
        if self.main.loops.positions is not None:
            for effect in self.effects.finished:
                self.main.loops.positions.effect_finished(effect)
        self.effects.finished.clear()

    def end(self) -> None:
        """Wait for the tail that is under way, end the thread, and add its times to those of the run."""
        if self.handover.over:
            return
        self.handover.close()
        began = perf_counter()
        with self.recorder.clock.during(WAITING):
            self.thread.join()
        self.waits.append((began, perf_counter()))
        self.own.profile.run_finished("interrupted" if self.main.stop.is_set() else "done", None)
        rows = self.recorder.profile.rows
        mine = [rows[call.id] for call in self.overlap.calls if call.id in rows]
        for row in mine:
            row.overlapped = row.calls > 0
        time = self.recorder.overlapped = self.recorder.overlapped or OverlappedTime()
        waited = self.recorder.clock.seconds_of(WAITING) - self.waited
        time.add(sum(row.seconds for row in mine), waited, self.effects.called, self.waits)

    def _tell(self) -> None:
        """Show the call of the second thread while the run waits for it."""
        call = self.context.call
        if call is not None:
            self.main.observer.progress(call, 0, 0, "")
