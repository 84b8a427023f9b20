"""Pay the cost of a first run before times are compared: imports, loading, kernels, compilation."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from ..compiler.plan import Plan, after_effects
from ..contract import interrupts
from ..contract.events import Observer, Observers
from ..contract.process_state import released
from .context import Context
from .execute import Executor
from .library_contexts import around_run
from .session import taken
from .worker import GRACE_SECONDS, POLL_SECONDS

TURNS = 2
"""Turns of each loop: some nodes do other work in the first one."""


def warm_up(
    plan: Plan, *, device: str = "cpu", options: Mapping[str, Any] | None = None, observers: Sequence[Observer] = ()
) -> float:
    """Run two turns of each loop and every node beside loops once, but no effect. Nothing is written.

    Use it inside `session()`, which keeps what was loaded and compiled. An error is not reported: the run that follows
    has it too. An interrupt ends it.

    Args:
        plan: The plan.
        device: `cpu` or `cuda`.
        options: Values that nodes read from `Run.options`.
        observers: Receive the events.

    Returns:
        The seconds that it took.
    """
    began, stop, done = perf_counter(), threading.Event(), threading.Event()
    listener = Observers(list(observers))
    with released(), TemporaryDirectory() as folder, taken() as (session, _):
        context = Context(Path(folder), listener, device, options)
        context.session = session

        def work() -> None:
            with suppress(BaseException), around_run(plan, context):
                Executor(plan, context, listener, stop, turns=TURNS, skip=after_effects(plan)).execute()
            done.set()

        listener.run_started(plan, context)
        thread = threading.Thread(target=work, name="sgd warm-up", daemon=True)
        thread.start()
        try:
            while not done.wait(POLL_SECONDS) and not interrupts.pending():
                pass
        finally:
            stop.set()
            done.wait(GRACE_SECONDS)
            listener.run_finished("done", None)
            listener.close()
    return perf_counter() - began
