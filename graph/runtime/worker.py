"""The thread that runs a plan: it starts, is waited for or interrupted, and ends with the record."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ..compiler.overlaps import Overlap
from ..compiler.plan import Plan
from ..contract import interrupts
from ..contract.errors import NodeError
from ..contract.events import Observers
from ..contract.output_files import unwritable
from ..store.entries import Store
from .clock import IMPORT, OTHER, Clock
from .context import RECORD, Context
from .execute import Executor
from .expectations import judged
from .failure import Interrupted, does_not_fit
from .library_contexts import around_run, import_packages
from .output_folder import OutputFolder
from .overlap.overlapped_steps import OverlappedSteps
from .profiling import Watch
from .ranks.opening import Opening
from .ranks.placed_steps import PlacedSteps
from .ranks.run_ranks import RunRanks
from .record import Recorder
from .record_file import RecordFile
from .run_result import Result
from .run_snapshots import RunSnapshots
from .step_wrap import StepWraps
from .stored_steps import StoredSteps

START, EXECUTOR, END, RECORDING, EXPECT = (
    f"{OTHER} {part}" for part in ("start", "executor", "end", "record", "expect")
)
GRACE_SECONDS = 0.25
SESSION_GRACE_SECONDS = 10.0
"""How long a session waits for its node after an interrupt. It keeps its models if the node ends in this time."""
POLL_SECONDS = 0.05


class Worker:
    """The thread that runs the plan, and its result."""

    def __init__(
        self,
        plan: Plan,
        context: Context,
        observer: Observers,
        clock: Clock,
        folder: OutputFolder,
        watch: Watch,
        kept: RunSnapshots,
        recorder: Recorder,
        store: Store | None,
        ranks: RunRanks | None,
    ) -> None:
        self.recorder, self.store, self.ranks = recorder, store, ranks
        self.plan, self.context, self.observer, self.clock, self.folder = plan, context, observer, clock, folder
        self.watch, self.kept = watch, kept
        self.stop, self.done = threading.Event(), threading.Event()
        self.outputs: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.overlaps: Sequence[Overlap] = ()
        self.overlap_device: str | None = None
        self.finished = False
        self.thread = threading.Thread(target=self.work, name="sgd", daemon=True)
        self._turn = threading.Lock()
        self._left = self._over = False

    def work(self) -> None:
        try:
            self.clock.adopt(START)  # until the executor serves, or the main thread adopts the clock
            with ExitStack() as stack:
                may_reuse = self.store is not None and self.kept.begins_anew
                with self.clock.during(IMPORT):
                    stack.enter_context(around_run(self.plan, self.context, packages=not may_reuse))
                stack.enter_context(self.watch.around_steps())
                self.observer.run_started(self.plan, self.context)
                self.clock.serve(EXECUTOR)
                placed = self.ranks.join(self.context, self.recorder.heard) if self.ranks is not None else None
                stored = self._stored(placed)
                if may_reuse and stored is not None and stored.acquires_any():
                    with self.clock.during(IMPORT):
                        import_packages(self.plan, self.context)
                executor = self._executor(placed, stored)
                if self.overlaps:
                    OverlappedSteps(self.overlaps, executor, self.recorder, stored, self.overlap_device)
                self.outputs = executor.execute()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()
            with self._turn:
                self._over, left = True, self._left
            if left:
                self.folder.release()

    def _stored(self, placed: PlacedSteps | None) -> StoredSteps | None:
        if self.store is None:
            return None
        known = (self.store, self.plan, self.context, self.recorder, self.kept.storages())
        reads, again = self.kept.begins_anew, self.kept.lost
        if placed is None or self.ranks is None:
            stored = StoredSteps(*known, reads=reads, again=again)
        else:
            ranks = (placed.processes, placed.needed, self.ranks.at_files)
            stored = StoredSteps(*known, *ranks, reads=reads, again=again)
        return stored if self.kept.has_keys(stored.keys.hash) else None

    def _executor(self, placed: PlacedSteps | None, stored: StoredSteps | None) -> Executor:
        start, positions = self.kept.start(), self.kept.positions(placed)
        if placed is not None:
            reuse, choices = stored.reuse if stored is not None else None, self.context.earlier_choices
            folder = str(self.folder.path.resolve()) if positions is not None else None
            opening = Opening(start, reuse, choices, folder, self.kept.folder.last())
            placed.processes.broadcast(opening.for_others())
        wraps = [each for each in (stored, placed) if each is not None]
        wrap = StepWraps(wraps) if wraps else None
        known = (self.plan, self.context, self.observer, self.stop)
        return Executor(*known, positions=positions, start=start, wrap=wrap)

    def leave(self) -> bool:
        """Go on without the worker, which releases the folder when it ends. False if it has ended already."""
        if self.thread.ident is None:  # it never began
            return True
        if self.done.is_set():
            self.thread.join()
        with self._turn:
            self._left = not self._over
            return self._over

    def wait(self) -> bool:
        """Run the plan to its end or until an interrupt. True if there was an interrupt."""
        try:
            self.thread.start()
            while not self.done.wait(POLL_SECONDS):
                if interrupts.pending():
                    break
                if self.ranks is not None and self.ranks.fault is not None:
                    self.stop.set()
                    self.done.wait(GRACE_SECONDS)  # the thread may wait for a rank that has gone
                    return False
            else:
                return False
        except KeyboardInterrupt:
            pass
        self.stop.set()
        if interrupts.pending():
            # The process ends soon. Until then this thread writes files beside one that may be in pure Python, and
            # would wait five milliseconds after each.
            sys.setswitchinterval(1e-4)
        goes_on = self.context.session is not None and not interrupts.pending()
        # A second interrupt ends this wait too.
        with suppress(KeyboardInterrupt):
            self.done.wait(SESSION_GRACE_SECONDS if goes_on else GRACE_SECONDS)
        return True

    def finish(self, recorder: Recorder, interrupted: bool) -> Result:
        """Report the end to the observers, and write the record."""
        self.clock.adopt(END)
        stuck, error = not self.done.is_set(), self._cause(interrupted)
        if isinstance(error, Interrupted | KeyboardInterrupt):
            interrupted, error = True, None
        if error is not None:
            status = "failed"
        elif self.outputs is None:
            assert interrupted, "the worker ended without outputs and without an error"
            status = "interrupted"
        else:
            status = "done"
        if status != "done":
            self.kept.close(failed=status == "failed")
        if not self.finished:
            self.finished = True
            self.observer.run_finished(status, error)
        judging = self.plan.expected is not None and status == "done" and not interrupted
        if not judging:
            self.observer.close()
        self.context.discard()
        assert self.context.used is not None
        recipe = self.context.used.finished(over=lambda: status != "done" or interrupted or interrupts.pending())
        outputs = self.outputs if self.outputs is not None and status == "done" else {}
        folder, problem, late = self.folder.path, None, list[str]()
        self.clock.leave()
        self.clock.enter(RECORDING)
        more: dict[str, Any] = {"started": _moment(self.clock.epoch)}
        more |= {"recipe": recipe} if recipe is not None else {}
        if self.ranks is not None:
            self.ranks.finish()
            more["parallel"] = asdict(self.ranks.mesh)
            more["processes"] = self.ranks.told()
            self.watch.hear(self.ranks.noted, late.append)
            late += self.ranks.others_warnings(recorder.warnings)
            recorder.warnings += late
        record = self.record(recorder, self.clock.now(), status, outputs, error) | more
        file = RecordFile(record, folder / RECORD, self.folder.noted(folder / RECORD))
        try:
            if judging:
                file.write({})  # a process that is killed while it compares leaves the record of its run
                self.clock.leave()
                with self.clock.during(EXPECT):
                    record["expectations"] = self.judged(record)
                self.clock.enter(RECORDING)
                file.prepare({"expectations": record["expectations"]})
            times = self.watch.timed(recorder.times(self.plan, self.context.device, self.clock.leave()))
            record |= times
            file.write(times)
        except OSError as refused:
            problem = str(unwritable(folder / RECORD, refused))
            if status == "done":
                status, error = "failed", NodeError(problem)
        if status == "done":
            self.kept.remove()
        written = [path for path in self.context.written if path.exists()]
        return Result(status, outputs, record, folder, error, stuck, written, problem, self.kept.resumable, late)

    def _cause(self, interrupted: bool) -> BaseException | None:
        """The error that ended the run: of this process, of another rank, or a stall; None if there was none."""
        if self.ranks is None:
            return self.error
        if interrupted or interrupts.pending():  # other ranks may have ended first
            lost = self.ranks.lost() if self.outputs is None else None
            if lost is not None:
                return lost.error()
            return self.error and Interrupted()
        if self.error is None or isinstance(self.error, Interrupted):
            return self.ranks.failure(computed=self.outputs is not None) or self.error
        self.error = self.ranks.judged(self.error, does_not_fit(self.error, self.plan.loaded))
        return self.error

    def judged(self, record: Mapping[str, Any]) -> list[Any]:
        """The record compared with the file's `expect`; the observers hear of it."""
        assert self.plan.expected is not None
        try:
            return judged(self.plan.expected, record, self.folder.path, self.plan.loaded, self.observer.comparing)
        finally:
            self.observer.compared()
            self.observer.close()

    def record(
        self, recorder: Recorder, now: float, status: str, outputs: Mapping[str, Any], error: BaseException | None
    ) -> dict[str, Any]:
        """The record; without outputs that cannot describe themselves."""
        text = None if error is None else str(error) or type(error).__name__
        known = (self.plan, self.context, now, status)
        try:
            return self.watch.complete(recorder.record(*known, outputs, text))
        except Exception as problem:
            recorder.warned(None, f"outputs are not recorded: {type(problem).__name__}: {problem}")
            return self.watch.complete(recorder.record(*known, {}, text))


def _moment(seconds: float) -> str:
    """A time in ISO 8601, in the zone of this machine."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
