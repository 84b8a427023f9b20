"""Acquire and release the components of a run, and prefetch them in a thread."""

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
from ..contract.process_state import shared
from .arguments import Environment
from .context import Context
from .failure import NodeFailed, reason

PATIENCE_SECONDS = 5.0
"""A prefetch may be in the middle of a download, which is not waited for any longer at the end of a run."""


class Components:
    """Follows the `Acquire` and `Release` steps of a plan.

    Args:
        run: The run that components receive.
        observer: Receives an event for each component.
        maker: Gives the call whose output has components.
        stop: When set, nothing more is prefetched.
    """

    def __init__(self, run: Context, observer: Observer, maker: Callable[[Ref], Call], stop: threading.Event) -> None:
        self.run, self.observer, self.maker, self.stop = run, observer, maker, stop
        # This keeps the values, since their last reader may come before the last reader of their components.
        self.held: dict[tuple[Ref, str], list[tuple[Any, str]]] = {}
        self.thread: threading.Thread | None = None
        self.wanted: list[tuple[Any, tuple[Ref, str], Context]] = []
        """The parts that the thread has not begun: holder, part, and the run for the prefetch."""
        self.working = False
        self.current: tuple[Ref, str] | None = None
        self.lock = threading.Lock()
        """Guards `wanted`, `working` and `current`, the part that the thread works on."""
        self.prefetched: dict[tuple[Ref, str], tuple[float, float]] = {}
        """Start and end of the prefetch of each part, as times of `perf_counter`."""
        self.ended = False

    def acquire(self, step: Acquire, environment: Environment) -> None:
        """Acquire a part of a value, or of each value in a list; all parts for `*`.

        Raises:
            NodeFailed: If a part cannot be acquired.
        """
        maker = self.run.call = self.maker(step.holder)
        held = self.held[step.holder, step.part] = []
        with self.lock:
            self.wanted = [each for each in self.wanted if each[1] != (step.holder, step.part)]
        part = step.part
        self.run.environment = environment
        try:
            value = environment[step.holder]
            for holder in value if isinstance(value, list | tuple) else [value]:
                for part in holder.parts() if step.part == ALL else [step.part]:
                    self.observer.part_acquiring(Ref(maker.id, step.holder.port), part)
                    self.observer.part_loading(maker, part, 0, int)
                    began = perf_counter()
                    with shared():
                        holder.acquire(part, self.run)
                    held.append((holder, part))
                    self.observer.part_acquired(Ref(maker.id, step.holder.port), part, perf_counter() - began)
            self._tell_prefetched()
        except (Exception, SystemExit) as error:
            self.observer.node_failed(maker, error)
            raise NodeFailed(maker, {"component": part}, error) from error
        finally:
            self.run.environment = {}

    def _tell_prefetched(self) -> None:
        """Report what the thread has prefetched since the last time."""
        for holder, part in list(self.prefetched):
            began, ended = self.prefetched.pop((holder, part))
            maker = self.maker(holder)
            self.observer.part_prefetched(Ref(maker.id, holder.port), part, began, ended)

    def release(self, step: Release) -> None:
        """Release a component that `acquire` acquired."""
        self._tell_prefetched()
        maker = self.run.call = self.maker(step.holder)
        held = self.held.pop((step.holder, step.part))
        while held:
            holder, part = held.pop()
            self.observer.part_releasing(Ref(maker.id, step.holder.port), part)
            try:
                with shared():
                    holder.release(part)
            except Exception as error:
                self.run.warn(f"{part} was not released: {reason(error)}")
            self.observer.part_released(Ref(maker.id, step.holder.port), part)

    def release_all(self, *, discard: bool = True) -> None:
        """Release every component that is still held after an error or an interrupt.

        The thread that prefetches ends first, so that nothing of the run is left.

        Args:
            discard: Whether a session must drop them, because a node may have left them half changed.
        """
        self.ended = True
        if self.thread is not None:
            self.thread.join(PATIENCE_SECONDS)
        for parts in self.held.values():
            for holder, part in parts:
                with suppress(Exception), shared():
                    (getattr(holder, "discard", holder.release) if discard else holder.release)(part)
        self.held.clear()

    def _ending(self) -> bool:
        return self.ended or self.stop.is_set()

    def prefetch(self, steps: tuple[Step, ...], environment: Environment, waits: bool = False) -> None:
        """Prefetch the components that these steps need next, while the steps before them run.

        A thread that is still at work finishes its present component, and then takes these. It skips earlier ones that
        it has not begun.

        Args:
            steps: The next steps.
            environment: Values.
            waits: Whether this process waits for another one before it needs the components.
        """
        if self.run.planning or isinstance(steps[0], Acquire):
            return
        wanted: list[tuple[Any, tuple[Ref, str], Context]] = []
        for step in steps:
            if isinstance(step, Acquire):
                holder: Any = environment.get(step.holder)
                if step.part != ALL and hasattr(holder, "prefetch"):
                    run = self.run.silent(self.maker(step.holder), self._ending, waits)
                    wanted.append((holder, (step.holder, step.part), run))
            elif wanted:
                break

        if not wanted:
            return
        with self.lock:
            self.wanted = [each for each in wanted if each[1] != self.current]
            starts, self.working = not self.working, True
        if starts:
            self.thread = threading.Thread(target=self._work, name="sgd prefetch", daemon=True)
            self.thread.start()

    def _work(self) -> None:
        while True:
            with self.lock:
                self.working = bool(self.wanted) and not self._ending()
                if not self.working:
                    self.current = None
                    return
                holder, key, run = self.wanted.pop(0)
                self.current = key
            began = perf_counter()
            with suppress(Exception):  # `acquire` raises the error again and reports it
                holder.prefetch(key[1], run)
            self.prefetched[key] = began, perf_counter()
