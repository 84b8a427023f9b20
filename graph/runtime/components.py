"""The components that are in memory during a run: acquired, released, and brought near in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from ..compiler.ir import Call, Ref
from ..compiler.plan import Acquire, Release, Step
from ..contract.events import Observer
from ..contract.node import ALL
from .arguments import Environment
from .context import Context
from .failure import NodeFailed, reason


class Components:
    """Follows the `Acquire` and `Release` steps of a plan.

    Args:
        run: The run as components see it.
        observer: Hears of each component.
        maker: The call that made a value with components.
        stop: When set, no more is brought near.
    """

    def __init__(self, run: Context, observer: Observer, maker: Callable[[Ref], Call], stop: threading.Event) -> None:
        self.run, self.observer, self.maker, self.stop = run, observer, maker, stop
        # The values are held here, since their last reader may come before the last reader of their components.
        self.held: dict[tuple[Ref, str], list[tuple[Any, str]]] = {}
        self.thread: threading.Thread | None = None

    def acquire(self, step: Acquire, environment: Environment) -> None:
        """Bring in a part of a value, or of each in a list; every part if that is `*`.

        Raises:
            NodeFailed: If it cannot be brought in.
        """
        maker = self.run.call = self.maker(step.holder)
        held = self.held[step.holder, step.part] = []
        part = step.part
        try:
            value = environment[step.holder]
            for holder in value if isinstance(value, list | tuple) else [value]:
                for part in holder.parts() if step.part == ALL else [step.part]:
                    began = perf_counter()
                    holder.acquire(part, self.run)
                    held.append((holder, part))
                    self.observer.part_acquired(Ref(maker.id, step.holder.port), part, perf_counter() - began)
        except (Exception, SystemExit) as error:
            self.observer.node_failed(maker, error)
            raise NodeFailed(maker, {"component": part}, error) from error

    def release(self, step: Release) -> None:
        """Release the component that the step of the same value and part acquired."""
        maker = self.run.call = self.maker(step.holder)
        held = self.held.pop((step.holder, step.part))
        while held:
            holder, part = held.pop()
            try:
                holder.release(part)
            except Exception as error:
                self.run.warn(f"{part} was not released: {reason(error)}")
            self.observer.part_released(Ref(maker.id, step.holder.port), part)

    def release_all(self) -> None:
        """After an error or an interrupt, let go of everything that is still held."""
        for parts in self.held.values():
            for holder, part in parts:
                with suppress(Exception):
                    holder.release(part)
        self.held.clear()

    def prefetch(self, steps: tuple[Step, ...], environment: Environment) -> None:
        """Prefetch the components that these steps need next, while the steps before them run."""
        if self.run.planning or (self.thread is not None and self.thread.is_alive()):
            return
        wanted = []
        for step in steps:
            if isinstance(step, Acquire):
                holder: Any = environment.get(step.holder)
                if step.part != ALL and hasattr(holder, "prefetch"):
                    wanted.append((holder, step.part, self.run.silent(self.maker(step.holder))))
            elif wanted:
                break

        def work() -> None:
            while wanted and not self.stop.is_set():
                holder, part, run = wanted.pop(0)
                with suppress(Exception):  # the acquisition that follows meets the same error and reports it
                    holder.prefetch(part, run)

        if wanted:
            self.thread = threading.Thread(target=work, name="sgd prefetch", daemon=True)
            self.thread.start()
