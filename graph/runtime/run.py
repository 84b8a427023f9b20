"""One run from start to record: output folder, worker thread, interrupts.

The plan runs in a worker thread, so that the main thread can react to an interrupt at once. The output folder belongs
to the run from before its first file until after its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..contract import interrupts
from ..contract.errors import NodeError
from ..contract.events import Observer
from ..contract.kept_values import Session
from ..contract.process_state import released
from ..contract.processes import Mesh
from ..store.entries import Store
from .clock import COMPILE, Clock
from .context import Context
from .failure import does_not_fit
from .import_times import watched
from .overlap.possible import misfit, overlaps_for
from .prepared_folder import prepare_folder
from .profiling import Profiling, Watch
from .ranks.run_ranks import RunRanks
from .run_result import Result
from .run_snapshots import RunSnapshots, Snapshots
from .session import BUSY, taken
from .stored_steps import store_of
from .used_files import UsedFiles
from .worker import START, Worker


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
    overlap: bool | str = False,
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
            A run that measures kernels, traces values or has limits of time or memory cannot have one.
        ranks: The other processes of the run, if this is rank 0 of several.
        overlap: True runs the end of each turn of a loop over a list beside the next turn: a clip is decoded and
            written while the next one is made. The results are the same. The run warns and goes on without overlap if
            a GPU has too little memory for both. The name of another GPU, such as `cuda:1`, runs the ends there.

    Raises:
        NodeError: If the profile or the overlap is not possible, the device of the overlap is not there or is that of
            the run, a folder cannot be a store, or an output cannot be written: see `prepare_folder`. Nothing has run
            then.
    """
    clock = clock or Clock()
    with clock.during(START):
        profiling = Profiling(profile) if isinstance(profile, str) else profile
        if store is not None and profiling.needs_every_node:
            raise NodeError("reused results cannot be profiled or traced", help="leave out the store")
        if store is not None and plan.expected is not None and plan.expected.measures:
            raise NodeError(
                "reused results have no time and memory for the limits of `expect`", help="leave out the store"
            )
        kept_results = store_of(store)
        other = overlap if isinstance(overlap, str) else None
        overlaps = overlaps_for(plan, profiling, ranks is not None, device, other) if overlap else ()
    # A node may call this, and its thread waits here for that of the run.
    with (
        clock.during(START),
        interrupts.held(),
        released(),
        watched(clock),
        Watch(plan, profiling, device, overwrite, clock, ranks.place.rank if ranks is not None else None) as watch,
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
            if overlaps:
                with clock.during(COMPILE):
                    tight = misfit(plan, overlaps, device, context.options, other)
                if tight:
                    context.warn(tight)
                    overlaps = ()
            mesh = ranks.mesh if ranks is not None else Mesh()
            kept = RunSnapshots(snapshots, plan, context, recorder, mesh, kept_results)
            worker = Worker(plan, context, observer, clock, folder, watch, kept, recorder, kept_results, ranks)
            worker.overlaps, worker.overlap_device = overlaps, other
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
            # This process ends after an interrupt, and after a fault of one of several processes.
            if worker is None or worker.leave() or interrupts.pending() or ranks is not None:
                folder.release()


def _tidy(session: Session, result: Result, plan: Plan) -> None:
    """Forget what a node still uses that does not end, and free memory if it was short."""
    if result.stuck:
        session.close()
    elif does_not_fit(result.error, plan.loaded):
        session.free()
