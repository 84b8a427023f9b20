"""One run from start to record: worker thread, interrupts, output folder.

The plan runs in a worker thread, so that the main thread can react to an interrupt at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..compiler.ir import Const
from ..compiler.passes.fold import safe_name
from ..compiler.plan import Plan
from ..contract.errors import DoesNotFit, NodeError
from ..contract.events import Observer, Observers
from ..contract.node_library import NodeLibrary
from ..contract.text_tables import shortened
from .context import RECORD, Context
from .execute import Executor, Interrupted, NodeFailed
from .record import Clock, Recorder, write

GRACE_SECONDS = 0.4


@dataclass
class Result:
    """The result of a run.

    Attributes:
        status: `done`, `failed` or `interrupted`.
        outputs: The workflow's outputs by name; empty unless done.
        record: The content of `run.json`.
        folder: The output folder.
        error: The error of a failed run, else None.
        stuck: True if the worker was still inside a node when the run ended.
    """

    status: str
    outputs: Mapping[str, Any]
    record: Mapping[str, Any]
    folder: Path
    error: BaseException | None = None
    stuck: bool = False
    written: list[Path] = field(default_factory=list)


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


def prepare_folder(plan: Plan, folder: Path, overwrite: bool) -> None:
    """Make the output folder, if all known output paths of the plan are possible there.

    Raises:
        NodeError: If a file exists, lies outside the folder or would be written twice, or the folder cannot be made.
    """
    context = Context(folder, Observer(), overwrite=overwrite)
    try:
        exists = (folder / RECORD).exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NodeError(
            f"{shortened(folder)} is not a folder that sgd can write to: {reason}", help="choose another --out"
        ) from error
    if exists and not overwrite:
        raise NodeError(f"{folder / RECORD} exists", help="pass --overwrite, or another --out")
    seen: set[Path] = set()
    for path in known_outputs(plan):
        target = context.check(path)
        if target in seen:
            raise NodeError(f"{path} would be written twice", help="give each node that writes its own path")
        seen.add(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{RECORD}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise NodeError(f"cannot write to {folder}: {error.strerror}", help="choose another --out") from error


@contextmanager
def around_run(plan: Plan, run: Context) -> Iterator[None]:
    """Enter the contexts that the libraries of a plan put around a run."""
    with ExitStack() as stack:
        for library in plan.libraries:
            stack.enter_context(library.around_run(run))
        yield


def run(
    plan: Plan,
    *,
    out: Path | str | None = None,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    clock: Clock | None = None,
) -> Result:
    """Run a plan and write its record.

    Args:
        plan: The compiled workflow.
        out: The output folder; `outputs/<name>-<date>-<time>` if not given.
        device: `cpu` or `cuda`.
        options: Values that nodes read from `Run.options`.
        overwrite: Replace files that exist.
        observers: Further observers of the run.
        clock: Start of the process and seconds of the earlier phases, if the caller measured them.

    Raises:
        NodeError: If an output cannot be written: see `prepare_folder`. Nothing has run then.
    """
    folder = Path(out) if out is not None else default_folder(plan.name)
    prepare_folder(plan, folder, overwrite)
    clock = clock or Clock(time.time())
    recorder = Recorder()
    observer = Observers([recorder.profile, recorder.turns, recorder, *observers])
    context = Context(folder, observer, device, options, overwrite)
    worker = Worker(plan, context, observer, clock)
    interrupted = worker.wait()
    while True:
        # Nothing may keep the record from being written, not even a second interrupt.
        try:
            return worker.finish(recorder, interrupted)
        except KeyboardInterrupt:
            interrupted = True


class Worker:
    """The thread that runs the plan, and its result."""

    def __init__(self, plan: Plan, context: Context, observer: Observers, clock: Clock) -> None:
        self.plan, self.context, self.observer, self.clock = plan, context, observer, clock
        self.stop, self.done = threading.Event(), threading.Event()
        self.outputs: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.finished = False

    def work(self) -> None:
        try:
            began = time.time()
            with around_run(self.plan, self.context):
                self.clock.import_seconds += time.time() - began
                self.observer.run_started(self.plan, self.context)
                self.outputs = Executor(self.plan, self.context, self.observer, self.stop).execute()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def wait(self) -> bool:
        """Run the plan to its end or until an interrupt. True if there was an interrupt."""
        try:
            threading.Thread(target=self.work, name="sgd", daemon=True).start()
            while not self.done.wait(0.1):
                pass
        except KeyboardInterrupt:
            self.stop.set()
            # A second interrupt ends this wait too.
            with suppress(KeyboardInterrupt):
                self.done.wait(GRACE_SECONDS)
            return True
        return False

    def finish(self, recorder: Recorder, interrupted: bool) -> Result:
        """Report the end to the observers, and write the record."""
        stuck, error = not self.done.is_set(), self.error
        if isinstance(error, Interrupted | KeyboardInterrupt):
            interrupted, error = True, None
        if error is not None:
            status = "failed"
        elif self.outputs is None:
            assert interrupted, "the worker ended without outputs and without an error"
            status = "interrupted"
        else:
            status = "done"
        if not self.finished:
            self.finished = True
            self.observer.run_finished(status, error)
        self.observer.close()
        self.context.discard()
        outputs = self.outputs if self.outputs is not None and status == "done" else {}
        now, folder = time.time(), self.context.out
        text = None if error is None else str(error) or type(error).__name__
        record = recorder.record(self.plan, self.context, self.clock, now, status, outputs, text)
        try:
            write(record, folder / RECORD)
        except OSError as problem:
            if status == "done":
                status, error = "failed", NodeError(f"{folder / RECORD} cannot be written: {problem.strerror}")
        written = [path for path in self.context.written if path.exists()]
        return Result(status, outputs, record, folder, error, stuck, written)


def does_not_fit(error: BaseException | None, libraries: Iterable[NodeLibrary]) -> bool:
    """Whether a run failed because the work does not fit the device. Libraries know the errors of their packages."""
    cause = error.__cause__ if isinstance(error, NodeFailed) else error
    if cause is None or isinstance(cause, DoesNotFit | MemoryError):
        return cause is not None
    return any(library.is_out_of_memory(cause) for library in libraries)
