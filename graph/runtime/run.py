"""One run from start to record: output folder, worker thread, interrupts.

The plan runs in a worker thread, so that the main thread can react to an interrupt at once. The output folder belongs
to the run from before its first file until after its record.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..compiler.ir import Const
from ..compiler.passes.fold import safe_name
from ..compiler.plan import Plan
from ..contract import interrupts, kernel_caches
from ..contract.errors import DoesNotFit, NodeError
from ..contract.events import Observer, Observers
from ..contract.kept_values import Session
from ..contract.node_library import NodeLibrary
from ..contract.process_state import released
from ..store.entries import Store
from .clock import IMPORT, OTHER, Clock
from .context import RECORD, Context
from .execute import Executor, Interrupted, NodeFailed
from .expectations import judged
from .import_times import watched
from .output_folder import OutputFolder
from .profiling import Profiling, Watch
from .ranks.run_ranks import RunRanks
from .record import Recorder
from .record_file import RecordFile
from .run_snapshots import RunSnapshots, Snapshots
from .session import BUSY, taken
from .stored_steps import StoredSteps, store_of
from .used_files import UsedFiles

START, EXECUTOR, END, RECORDING, EXPECT = (
    f"{OTHER} {part}" for part in ("start", "executor", "end", "record", "expect")
)
GRACE_SECONDS = 0.25
POLL_SECONDS = 0.05


@dataclass
class Result:
    """The result of a run.

    Attributes:
        status: `done`, `failed` or `interrupted`.
        outputs: The workflow's outputs by name; empty unless done.
        record: The content of `run.json`.
        folder: The output folder.
        error: The error of a failed run, else None.
        stuck: True if the worker was still inside a node when the run ended. The folder stays locked until it leaves.
        record_problem: The reason why there is no `run.json`; None if there is one.
        resumable: Whether `sgd resume` can go on with the run.
    """

    status: str
    outputs: Mapping[str, Any]
    record: Mapping[str, Any]
    folder: Path
    error: BaseException | None = None
    stuck: bool = False
    written: list[Path] = field(default_factory=list)
    record_problem: str | None = None
    resumable: bool = False


def default_folder(name: str, base: Path = Path("outputs")) -> Path:
    """`outputs/<name>-<date>-<time>`, with a number at the end if that folder exists."""
    stamp = base / f"{safe_name(name)}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = stamp, 2
    while folder.exists():
        folder, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
    return folder


def known_outputs(plan: Plan) -> list[str]:
    """The output paths of a plan that are known before the run."""
    found = []
    for call in plan.calls():
        for name, parameter in call.type.inputs.items():
            if parameter.path == "write":
                arg = call.args.get(name)
                value = (
                    parameter.default if arg is None else arg.source.value if isinstance(arg.source, Const) else None
                )
                if value is not None:
                    found.append(str(value))
    return found


def prepare_folder(plan: Plan, out: Path | None, overwrite: bool) -> OutputFolder:
    """Take the output folder, if all known output paths of the plan are possible there.

    Args:
        plan: The plan.
        out: The folder; None for a new one.
        overwrite: Files that exist may be replaced.

    Raises:
        NodeError: If the folder belongs to another run or cannot be made, a file exists, lies outside the folder or
            would be written twice.
    """
    while True:
        path = out or default_folder(plan.name)
        try:
            folder = OutputFolder(path, new=out is None)
            break
        except FileExistsError:
            continue  # another run that began in this second has it
    try:
        check_outputs(plan, path, overwrite)
    except NodeError as error:
        folder.release()
        folder.remove_if_empty()
        if folder.left:
            raise NodeError(f"{error}; {folder.left}", help=error.help) from error
        raise
    except BaseException:
        folder.release()
        raise
    return folder


def check_outputs(plan: Plan, folder: Path, overwrite: bool) -> None:
    """Check the known output paths of a plan.

    Raises:
        NodeError: If a file exists, lies outside the folder or would be written twice.
    """
    context = Context(folder, Observer(), overwrite=overwrite)
    if (folder / RECORD).exists() and not overwrite:
        raise NodeError(f"{folder / RECORD} exists", help="pass --overwrite, or another --out")
    seen: set[Path] = set()
    for path in known_outputs(plan):
        target = context.check(path)
        if target in seen:
            raise NodeError(f"{path} would be written twice", help="give each node that writes its own path")
        seen.add(target)


@contextmanager
def around_run(plan: Plan, run: Context, packages: bool = True) -> Iterator[None]:
    """Enter the contexts that the libraries of a plan put around a run. Compiled kernels have their places then.

    `packages`: the packages that nodes need are imported too.
    """
    kernel_caches.prepare(plan.libraries)
    with ExitStack() as stack:
        for library in plan.libraries:
            stack.enter_context(library.around_run(run))
        if packages:
            import_packages(plan, run)
        yield


def import_packages(plan: Plan, run: Context) -> None:
    """Import the packages that the nodes of a plan need."""
    for library in plan.libraries:
        library.import_packages(run)


def run(
    plan: Plan,
    *,
    out: Path | str | None = None,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    clock: Clock | None = None,
    metadata: bool = True,
    profile: Profiling | str = "nodes",
    snapshots: Snapshots | None = None,
    store: Store | Path | str | None = None,
    ranks: RunRanks | None = None,
) -> Result:
    """Run a plan and write its record.

    Args:
        plan: The compiled workflow.
        out: The output folder; `outputs/<name>-<date>-<time>` if not given.
        device: `cpu` or `cuda`.
        options: Values that nodes read from `Run.options`.
        overwrite: Replace files that exist.
        observers: Further observers of the run.
        clock: The clock of this process, if the caller measured what came before; else a clock of this call.
        metadata: Write the recipe into pictures, clips and other files too. The record has it in any case.
        profile: The measurements: `off`, `nodes`, `torch` or `nvtx`; or `Profiling` with further options.
        snapshots: How snapshots are written, so that `sgd resume` can go on with the run, and where this run goes on;
            None for no snapshots.
        store: A folder of stored results, or a store: results come from it, and new ones go into it. None for no store.
            A run that measures kernels or traces values cannot have one, nor a run in several processes.
        ranks: The other processes of the run, if this is rank 0 of several; `snapshots` and `store` are None then.

    Raises:
        NodeError: If the profile is not possible, a folder cannot be a store, or an output cannot be written: see
            `prepare_folder`. Nothing has run then.
    """
    clock = clock or Clock()
    profiling = Profiling(profile) if isinstance(profile, str) else profile
    if store is not None and profiling.needs_every_node:
        raise NodeError("reused results cannot be profiled or traced", help="leave the store away")
    kept_results = store_of(store)
    # A node may call this, and its thread waits here for that of the run.
    with (
        clock.during(START),
        interrupts.held(),
        released(),
        watched(clock),
        Watch(plan, profiling, device, overwrite, clock) as watch,
        taken() as (session, busy),
    ):
        folder = prepare_folder(plan, Path(out) if out is not None else None, overwrite)
        worker: Worker | None = None
        try:
            recorder = watch.recorder(clock)
            own = [*observers, *ranks.observers] if ranks is not None else observers
            observer = watch.observers(recorder.observers, own)
            context = Context(folder.path, observer, device, options, overwrite, folder=folder)
            context.used = UsedFiles(plan, device, context.options, metadata, context.warn)
            context.session = session
            if busy:
                context.warn(BUSY)
            if folder.left and (snapshots is None or snapshots.resumed is None):
                context.warn(folder.left)
            kept = RunSnapshots(snapshots, plan, context, recorder)
            worker = Worker(plan, context, observer, clock, folder, watch, kept, recorder, kept_results, ranks)
            interrupted = worker.wait()
            while True:
                # Nothing may keep the record from being written, not even a second interrupt.
                try:
                    result = worker.finish(recorder, interrupted)
                    if session is not None:
                        _tidy(session, result, plan)
                    return result
                except KeyboardInterrupt:
                    interrupted = True
        finally:
            if worker is None or worker.leave() or interrupts.pending():  # after an interrupt, the process ends
                folder.release()


def _tidy(session: Session, result: Result, plan: Plan) -> None:
    """Forget what a node still uses that does not end, and free memory if it was short."""
    if result.stuck:
        session.close()
    elif does_not_fit(result.error, plan.loaded):
        session.free()


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
        self.finished = False
        self.thread = threading.Thread(target=self.work, name="sgd", daemon=True)
        self._turn = threading.Lock()
        self._left = self._over = False

    def work(self) -> None:
        try:
            self.clock.adopt()
            self.clock.enter(START)  # until the executor serves, or the main thread adopts the clock
            with ExitStack() as stack:
                may_reuse = self.store is not None and self.kept.resumed is None
                with self.clock.during(IMPORT):
                    stack.enter_context(around_run(self.plan, self.context, packages=not may_reuse))
                stack.enter_context(self.watch.around_steps())
                self.observer.run_started(self.plan, self.context)
                self.clock.serve(EXECUTOR)
                start, stored = self.kept.start(), self._stored()
                if may_reuse and stored is not None and stored.acquires_any():
                    with self.clock.during(IMPORT):
                        import_packages(self.plan, self.context)
                wrap = self.ranks.join(self.context) if self.ranks is not None else stored
                self.outputs = Executor(
                    self.plan,
                    self.context,
                    self.observer,
                    self.stop,
                    positions=self.kept.keeper,
                    start=start,
                    wrap=wrap,
                ).execute()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()
            with self._turn:
                self._over, left = True, self._left
            if left:
                self.folder.release()

    def _stored(self) -> StoredSteps | None:
        if self.store is None:
            return None
        return StoredSteps(self.store, self.plan, self.context, self.recorder, self.kept.storages())

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
        # A second interrupt ends this wait too.
        with suppress(KeyboardInterrupt):
            self.done.wait(GRACE_SECONDS)
        return True

    def finish(self, recorder: Recorder, interrupted: bool) -> Result:
        """Report the end to the observers, and write the record."""
        self.clock.adopt()
        self.clock.enter(END)
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
        folder, problem = self.folder.path, None
        self.clock.leave()
        self.clock.enter(RECORDING)
        more: dict[str, Any] = {"started": _moment(self.clock.epoch)}
        more |= {"recipe": recipe} if recipe is not None else {}
        if self.ranks is not None:
            self.ranks.finish()
            more["parallel"] = asdict(self.ranks.mesh)
            more["processes"], recorder.events = self.ranks.told()
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
            self.clock.leave()
            times = self.watch.timed(recorder.times(self.plan, self.context.device, self.clock.now()))
            record |= times
            file.write(times)
        except OSError as refused:
            problem = f"{folder / RECORD} cannot be written: {refused.strerror or refused}"
            if status == "done":
                status, error = "failed", NodeError(problem)
        if status == "done":
            self.kept.remove()
        written = [path for path in self.context.written if path.exists()]
        return Result(status, outputs, record, folder, error, stuck, written, problem, self.kept.resumable)

    def _cause(self, interrupted: bool) -> BaseException | None:
        """The error that ended the run: of this process, or of another rank; None if there was none."""
        if self.ranks is None:
            return self.error
        if interrupted or interrupts.pending():  # other ranks may have ended first
            return self.error and Interrupted()
        if self.error is None or isinstance(self.error, Interrupted):
            return self.ranks.failure() or self.error
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


def does_not_fit(error: BaseException | None, libraries: Iterable[NodeLibrary]) -> bool:
    """Whether a run failed because the work does not fit the device. Libraries know the errors of their packages."""
    cause = error.__cause__ if isinstance(error, NodeFailed) else error
    if cause is None or isinstance(cause, DoesNotFit | MemoryError):
        return cause is not None
    return any(library.is_out_of_memory(cause) for library in libraries)
