"""Events of a run. An observer overrides the methods of the events it needs; the executor knows no observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from .node import NodeType, Run


class PlanInfo(Protocol):
    """The plan as observers see it."""

    @property
    def name(self) -> str:
        """The workflow's name."""


class CallInfo(Protocol):
    """A call of a node as observers see it."""

    @property
    def id(self) -> str:
        """Its path in the file."""

    @property
    def type(self) -> NodeType:
        """Its node type."""


class LoopInfo(Protocol):
    """A loop as observers see it."""

    @property
    def id(self) -> str:
        """Its path in the file."""


class HolderInfo(Protocol):
    """The output port whose value holds a component."""

    @property
    def node(self) -> str:
        """Path of the node."""

    @property
    def port(self) -> str:
        """Name of the port."""


class Observer:
    """Base class: one method for each event, which does nothing. The thread that runs the plan calls them in order."""

    def run_started(self, plan: PlanInfo, run: Run) -> None:
        """The plan is about to run; heavy libraries are imported."""

    def run_finished(self, status: str, error: BaseException | None) -> None:
        """The run is over: `done`, `failed` or `interrupted`."""

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        """A node is about to run with these arguments."""

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        """A node has run; its outputs by port."""

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        """A node has raised an exception."""

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        """A loop is about to run this many iterations."""

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        """An iteration of a loop is about to run with these loop variables."""

    def turn_finished(self, loop: LoopInfo, index: int, seconds: float) -> None:
        """An iteration of a loop has run."""

    def loop_finished(self, loop: LoopInfo) -> None:
        """All iterations of a loop have run."""

    def part_loading(self, call: CallInfo | None, part: str, total: int, loaded: Callable[[], int]) -> None:
        """A component is being loaded; see `Run.loading`. The executor tells it first, with a total of 0."""

    def part_acquiring(self, holder: HolderInfo, part: str) -> None:
        """A component is about to be acquired."""

    def part_acquired(self, holder: HolderInfo, part: str, seconds: float) -> None:
        """A component is in memory."""

    def part_prefetched(self, holder: HolderInfo, part: str, began: float, ended: float) -> None:
        """Another thread has prefetched a component. Reported later; `began` and `ended` are of `perf_counter`."""

    def part_releasing(self, holder: HolderInfo, part: str) -> None:
        """A component is about to be released."""

    def part_released(self, holder: HolderInfo, part: str) -> None:
        """A component has been released."""

    def values_freed(self, names: Sequence[Any]) -> None:
        """These values have been freed after their last reader."""

    def detail(self, call: CallInfo | None, values: Mapping[str, Any]) -> None:
        """A node reports facts about its call."""

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        """An event of a kind that a node library defines, such as a node's decision."""

    def range_started(self, call: CallInfo | None, kind: str, name: str) -> None:
        """A part of a call begins (`Run.range`). Ranges of one call lie inside each other or follow each other."""

    def range_finished(self, call: CallInfo | None, kind: str, name: str) -> None:
        """The last range that began has ended."""

    def progress(self, call: CallInfo | None, done: int, total: int, label: str) -> None:
        """A long node reports its progress."""

    def warned(self, call: CallInfo | None, message: str) -> None:
        """A node warns."""

    def comparing(self, output: str, frames: int) -> None:
        """After the run: an output is compared with the reference of `expect`, so many frames until now."""

    def compared(self) -> None:
        """After the run: it has been compared with the file's `expect`."""


@runtime_checkable
class Beside(Protocol):
    """An observer with a second observer for the events of the second thread (`sgd exec --overlap`).

    An observer without `beside` receives the events of both threads itself.
    """

    def beside(self) -> Observer:
        """The observer for the events of the second thread."""


class Observers(Observer):
    """Passes each event on to several observers.

    An event reaches only observers that override its method, so that a run with few observers costs little. An
    observer that raises does not end the run: it receives no more events, and the others receive a warning.

    Args:
        observers: The observers, in the order in which they receive an event.
        strict: An observer that raises ends the run.
    """

    def __init__(self, observers: Sequence[Observer], strict: bool = False) -> None:
        # A group sets its methods on the instance, and the search below looks at classes: take its members.
        self.observers: list[Observer] = [
            m for o in observers for m in (o.observers if isinstance(o, Observers) else [o])
        ]
        self._listening: dict[str, list[Any]] = {}
        for name in (n for n in vars(Observer) if not n.startswith("_")):
            own = getattr(Observer, name)
            listening = [getattr(o, name) for o in self.observers if getattr(type(o), name) is not own]
            self._listening[name] = listening
            if not listening:
                setattr(self, name, _nobody)
            elif not strict:
                setattr(self, name, self._forward(listening))
            elif len(listening) > 1:
                setattr(self, name, self._forward_strictly(listening))
            else:
                setattr(self, name, listening[0])

    def has_listener(self, event: str) -> bool:
        """Whether an observer receives this event, such as `range_started`."""
        return bool(self._listening[event])

    def close(self) -> None:
        """Pass no more events on. A node may still be running when a run is over."""
        for name, listening in self._listening.items():
            listening.clear()
            setattr(self, name, _nobody)

    def _forward_strictly(self, listening: list[Any]) -> Any:
        def forward(*arguments: Any) -> None:
            for listener in listening:
                listener(*arguments)

        return forward

    def _forward(self, listening: list[Any]) -> Any:
        def forward(*arguments: Any) -> None:
            failed = None
            for listener in listening:
                try:
                    listener(*arguments)
                except Exception as error:
                    failed = [*(failed or []), (listener.__self__, error)]
            if failed is not None:
                self._drop(failed)

        return forward

    def _drop(self, failed: list[tuple[Observer, Exception]]) -> None:
        for listening in self._listening.values():
            listening[:] = [m for m in listening if all(m.__self__ is not observer for observer, _ in failed)]
        for observer, error in failed:
            reason = f"{type(error).__name__}: {error}"
            self.warned(None, f"{type(observer).__name__} failed and receives no more events: {reason}")


def _nobody(*arguments: Any) -> None:
    """An event that no observer receives."""
