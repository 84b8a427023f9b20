"""`--jobs N`: the runs of a sweep in several processes, on a CPU. Each process warms up before its first run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from typing import Any

from ...compiler.plan import Plan
from ...contract.interrupts import pending
from ...language.registry import installed
from .checked_plans import checked_plans
from .combination_runs import Outcome, Told, run_all
from .combinations import Combination
from .sweep_file import Sweep

POLL_SECONDS = 0.1
LOOK_SECONDS = 0.5
"""How often a process looks whether the one that started it is there."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_worker: dict[str, Any] = {}


def run_in_processes(
    sweep: Sweep,
    todo: Sequence[Combination],
    plans: Mapping[int, Plan],
    folder: Path,
    told: Told,
    store: Path | None,
    jobs: int,
) -> list[Outcome]:
    """Run combinations in up to `jobs` processes. Each gets its share of the processors' cores.

    After an interrupt, no further run begins, and those under way are given up.
    """
    found: list[Outcome] = []
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    added = {name: threads for name in THREADS if name not in os.environ}
    os.environ.update(added)
    given = (sweep, folder.absolute(), store, os.getcwd(), os.getpid())
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, given)
    try:
        futures: dict[Future[Outcome], Combination] = {pool.submit(_run, each.number): each for each in todo}
        left = set(futures)
        while left and not pending():
            done, left = wait(left, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                outcome = _outcome(future, futures[future])
                found.append(outcome)
                told(outcome)
        if left:
            for process in list((pool._processes or {}).values()):
                process.kill()
            found += [Outcome(futures[each].number, "interrupted") for each in left]
    finally:
        with suppress(Exception):
            pool.shutdown(wait=True, cancel_futures=True)
        for name in added:
            os.environ.pop(name, None)
    return found


def _outcome(future: Future[Outcome], combination: Combination) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # the process was killed, for example because memory ran out
        return Outcome(combination.number, "failed", error=f"its process ended: {str(error) or type(error).__name__}")


def _end_with(starter: int) -> None:
    """End this process when the one that started it has gone."""
    while os.getppid() == starter:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _begin(sweep: Sweep, folder: Path, store: Path | None, here: str, starter: int) -> None:
    """Prepare a process: the sweep, the node types. Interrupts are the first process's business."""
    signal(SIGINT, SIG_IGN)
    threading.Thread(target=_end_with, args=(starter,), name="sgd sweep", daemon=True).start()
    os.chdir(here)
    library = installed(tuple(Path(file) for file in sweep.libraries))
    _worker.update(sweep=sweep, library=library, folder=folder, store=store, warm=True)


def _run(number: int) -> Outcome:
    sweep: Sweep = _worker["sweep"]
    combination = sweep.combinations[number - 1]
    plans = checked_plans(sweep, [combination], _worker["library"]).plans
    warm, _worker["warm"] = _worker["warm"], False
    found = run_all(sweep, [combination], plans, _worker["folder"], lambda _: None, _worker["store"], warm=warm)
    return found[0]
