"""One run from start to record: worker thread, interrupts, output folder.

The plan runs in a worker thread, so that an interrupt is answered at once by the main one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from .context import Context
from .events import Observer, Observers
from .execute import Executor, Interrupted, NodeFailed
from .ir import Const
from .node import DoesNotFit, NodeError
from .plan import Plan
from .record import Clock, Recorder, write

GRACE_SECONDS = 0.4


@dataclass
class Result:
    """What a run gave.

    Attributes:
        status: `done`, `failed` or `interrupted`.
        outputs: The workflow's outputs by name; empty unless done.
        record: What `run.json` holds.
        folder: Where the run's files are.
        error: Why it failed, None otherwise.
        stuck: The worker was still inside a node when the run was given up.
    """

    status: str
    outputs: Mapping[str, Any]
    record: Mapping[str, Any]
    folder: Path
    error: BaseException | None = None
    stuck: bool = False
    written: list[Path] = field(default_factory=list)


def default_folder(name: str, base: Path = Path("outputs")) -> Path:
    """`outputs/<name>-<date>-<time>`, with a number behind it if that exists."""
    stamp = base / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = stamp, 2
    while folder.exists():
        folder, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
    return folder


def existing_outputs(plan: Plan, folder: Path) -> list[Path]:
    """Files that the plan would write and that exist already, as far as their names are known before the run."""
    found = [folder / "run.json"]
    for call in plan.calls():
        for name, arg in call.args.items():
            if call.type.inputs[name].path == "write" and isinstance(arg.source, Const) and arg.source.value:
                found.append(folder / str(arg.source.value))
    return [path for path in found if path.exists()]


@contextmanager
def runtimes(plan: Plan, run: Context) -> Iterator[None]:
    """Enter what the libraries of a plan want around a run."""
    with ExitStack() as stack:
        for module in plan.libraries:
            runtime = getattr(module, "runtime", None)
            if runtime is not None:
                stack.enter_context(runtime(run))
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
        options: What libraries read from `Run.options` (`weights`, `trust_remote_code`).
        overwrite: Replace files that exist.
        observers: Also told about the run.
        clock: When the process started and what went before, if the caller measured that.

    Raises:
        NodeError: If the plan would write over files that exist.
    """
    folder = Path(out) if out is not None else default_folder(plan.name)
    if not overwrite and (existing := existing_outputs(plan, folder)):
        raise NodeError(f"{existing[0]} exists", help="pass --overwrite, or another --out")
    clock = clock or Clock(time.time())
    recorder = Recorder()
    observer = Observers([recorder.profile, recorder.turns, recorder, *observers])
    context = Context(folder, observer, device, options, overwrite)
    stop, done = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            began = time.time()
            with runtimes(plan, context):
                clock.import_seconds += time.time() - began
                observer.run_started(plan, context)
                found["outputs"] = Executor(plan, context, observer, stop).execute()
        except BaseException as error:
            found["error"] = error
        finally:
            done.set()

    worker = threading.Thread(target=work, name="sgd", daemon=True)
    worker.start()
    interrupted = False
    try:
        while not done.wait(0.1):
            pass
    except KeyboardInterrupt:
        interrupted = True
        stop.set()
        done.wait(GRACE_SECONDS)
    error = found.get("error")
    if isinstance(error, Interrupted):
        interrupted, error = True, None
    status = "interrupted" if interrupted else "failed" if error is not None else "done"
    observer.run_finished(status, error)
    outputs = found.get("outputs", {}) if status == "done" else {}
    text = str(error) if error is not None else None
    record = recorder.record(plan, context, clock, time.time(), status, outputs, text)
    written = [path for path in context.written if path.exists()]
    if folder.is_dir():
        write(record, folder / "run.json")
    return Result(status, outputs, record, folder, error, not done.is_set(), written)


def does_not_fit(error: BaseException | None) -> bool:
    """Whether a run failed because the work does not fit the device."""
    cause = error.__cause__ if isinstance(error, NodeFailed) else error
    return isinstance(cause, DoesNotFit | MemoryError) or type(cause).__name__ == "OutOfMemoryError"
