"""The run of a rank other than 0: it computes its part, and writes no files."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ...compiler.plan import Plan
from ...contract import interrupts
from ...contract.process_state import released
from ...resume.keeper import Keeper
from ..clock import IMPORT, Clock
from ..context import Context
from ..execute import Executor
from ..failure import Interrupted, does_not_fit
from ..import_times import watched
from ..library_contexts import around_run
from ..profiling import Watch
from ..run_snapshots import close_soon
from ..worker import POLL_SECONDS
from .opening import opened
from .rank_beat import read_beat
from .run_ranks import RunRanks

FAREWELL_SECONDS = 3.0
"""How long a rank that failed waits for rank 0 to tell of it. Launchers stop all ranks when one has ended."""


def run_rank(
    plan: Plan, ranks: RunRanks, out: Path, options: Mapping[str, Any], clock: Clock
) -> tuple[BaseException | None, bool, list[str]]:
    """Compute this rank's part of a run.

    Args:
        plan: The plan.
        ranks: This rank; it is not rank 0.
        out: The output folder of the run, in which this rank writes nothing.
        options: The options of the run.
        clock: The clock of this process.

    Returns:
        The error that ended the run, None if there was none; whether there was an interrupt; warnings.
    """
    watch = Watch(plan, ranks.profile, ranks.device, False, clock, ranks.place.rank)
    ranks.notes |= watch.notes()
    observer = watch.observers([], ranks.observers)
    context = Context(out, observer, ranks.device, options)
    found: list[BaseException] = []
    keepers: list[Keeper] = []
    done, stop = threading.Event(), threading.Event()

    def work() -> None:
        try:
            clock.adopt()
            with ExitStack() as stack:
                with clock.during(IMPORT):
                    stack.enter_context(around_run(plan, context))
                placed = ranks.join(context)
                if watch.trace is not None:
                    watch.trace.count_from(ranks.began)
                stack.enter_context(watch.around_steps())
                other = opened(plan, context, placed)
                keepers.extend(filter(None, [other.keeper]))
                observer.run_started(plan, context)
                executor = Executor(
                    plan,
                    context,
                    observer,
                    stop,
                    skip=placed.skipped,
                    wrap=other.wrap,
                    positions=other.positions,
                    start=other.start,
                )
                del other  # it holds the values of the resumed position
                executor.execute()
        except BaseException as error:
            found.append(error)
        finally:
            done.set()

    with interrupts.held(), released(), watched(clock):
        threading.Thread(target=work, name="sgd", daemon=True).start()
        while not done.wait(POLL_SECONDS) and not interrupts.pending() and ranks.fault is None:
            pass
        stop.set()
        error = found[0] if found else None
        if interrupts.pending():
            interrupts.reported()
            ranks.finish(interrupted=True)
            for keeper in keepers:
                close_soon(keeper)
            return None, True, ranks.warnings.messages
        if error is not None and not isinstance(error, Interrupted):
            error = ranks.judged(error, does_not_fit(error, plan.loaded))
        elif not done.is_set() or error is not None:
            error = ranks.failure(computed=False) or error
        for keeper in keepers:
            if error is None:
                keeper.close(done=True)
            else:
                close_soon(keeper)
        observer.run_finished("done" if error is None else "failed", error)
        ranks.finish()
        if error is not None:
            _let_first_tell(ranks)
        return error, False, ranks.warnings.messages


def _let_first_tell(ranks: RunRanks) -> None:
    """Wait until rank 0 has ended its part, or a moment."""
    until = time.monotonic() + FAREWELL_SECONDS
    with suppress(OSError):
        while ranks.joined is not None and time.monotonic() < until:
            beat = read_beat(ranks.joined.board, 0)
            if beat is not None and beat.over:
                return
            time.sleep(POLL_SECONDS)
