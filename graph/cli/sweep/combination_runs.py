"""The runs of a sweep in one process, one after the other. Loaded and compiled models stay from run to run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...compiler.plan import Plan
from ...contract.device import choose
from ...contract.errors import NodeError, UnreadableFile
from ...contract.events import Observer
from ...contract.interrupts import pending
from ...runtime.author_frames import traceback_text
from ...runtime.context import RECORD
from ...runtime.run import run
from ...runtime.session import session
from ...runtime.warm_up import warm_up
from ..report.run_record import read_run
from .combinations import Combination
from .sweep_file import Sweep


@dataclass(frozen=True)
class Outcome:
    """How the run of a combination ended.

    Attributes:
        number: The combination's number.
        status: `done`, `failed` or `interrupted`.
        seconds: How long it took; None if there is no record.
        error: Why it failed; empty if it did not.
        trace: The calls that led to the error; empty if there is none.
        stuck: Whether a node was still at work when an interrupt ended the run.
    """

    number: int
    status: str
    seconds: float | None = None
    error: str = ""
    stuck: bool = False
    trace: str = ""


Told = Callable[[Outcome], None]
"""Called after each run."""
Watch = Callable[[], Sequence[Observer]]
"""Makes the observers of a run."""


def finished(folder: Path) -> bool:
    """Whether the run of a folder is done, so that a sweep that goes on keeps it."""
    if not (folder / RECORD).is_file():
        return False
    try:
        return read_run(str(folder)).record.status == "done"
    except UnreadableFile:
        return False


def run_all(
    sweep: Sweep,
    todo: Iterable[Combination],
    plans: Mapping[int, Plan],
    folder: Path,
    told: Told,
    store: Path | None,
    watch: Watch = tuple,
    warm: bool = True,
) -> list[Outcome]:
    """Run combinations in this process, until the last one or an interrupt.

    Args:
        sweep: The sweep.
        todo: The combinations to run.
        plans: The plan of each, by its number.
        folder: The folder of the sweep.
        told: Called after each run.
        store: The folder of stored results; None for none.
        watch: Makes observers for each run.
        warm: Warm up before the first one.
    """
    found: list[Outcome] = []
    with session():
        for combination in todo:
            if pending():
                break
            plan = plans[combination.number]
            try:
                device = choose(sweep.device, plan.libraries)
            except NodeError as error:
                found.append(Outcome(combination.number, "failed", error=str(error)))
                told(found[-1])
                continue
            options = {**sweep.options, "device": device}
            with redirect_stdout(sys.stderr):  # text that nodes print is not part of the result
                if warm:
                    warm = False
                    warm_up(plan, device=device, options=options, observers=watch())
                    if pending():
                        break
                made = _run(sweep, combination, plan, folder, options, store, watch())
            found.append(made)
            told(made)
            if made.status == "interrupted":
                break
    return found


def _run(
    sweep: Sweep,
    combination: Combination,
    plan: Plan,
    folder: Path,
    options: Mapping[str, Any],
    store: Path | None,
    observers: Sequence[Observer],
) -> Outcome:
    try:
        done = run(
            plan,
            out=folder / combination.folder,
            device=options["device"],
            options=options,
            overwrite=True,  # what an earlier attempt left
            observers=observers,
            metadata=sweep.metadata,
            store=store,
        )
    except NodeError as error:
        return Outcome(combination.number, "failed", error=str(error))
    error_text = "" if done.error is None else str(done.error) or type(done.error).__name__
    trace = traceback_text(done.error) if done.error is not None else ""
    return Outcome(combination.number, done.status, done.record.get("seconds"), error_text, done.stuck, trace)
