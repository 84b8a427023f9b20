"""The second thread for both kinds of tail: the last calls of a loop's body, and the loop over its results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...compiler.ir import Index, Ref, Source, Var, leaves, output_ports, used
from ...compiler.overlaps import Overlap
from ...compiler.plan import LoopStep
from ..arguments import Environment
from ..arriving_values import Arriving
from ..execute import Executor
from ..loop_under_way import LoopUnderWay
from ..record import Recorder
from ..step_wrap import StepWrap, StepWraps
from ..stored_steps import StoredSteps
from .lane import Lane
from .other_device import OtherDevice


class BodyLane(Lane):
    """Runs the last calls of the loop's body."""

    def __init__(
        self,
        overlap: Overlap,
        main: Executor,
        recorder: Recorder,
        stored: StoredSteps | None,
        other: OtherDevice | None,
    ) -> None:
        self.loop = main.loops.under_way[-1]
        self.first = self.loop.turn
        super().__init__(overlap, main, recorder, stored, self.first, other)
        made = {Ref(call.id, port) for call in overlap.calls for port in output_ports(call)}
        outputs = self.loop.step.loop.body.outputs
        self.yielded = {n: a.source for n, a in outputs.items() if isinstance(a.source, Ref) and a.source in made}
        self.read = [leaf for call in overlap.calls for arg in call.sources for leaf in leaves(arg.source)]
        self.done: tuple[int, list[Any], Environment] | None = None
        self.thread.start()

    def give(self, environment: Environment) -> None:
        """Give the tail of the turn that is under way. The loop's results get their values when it is finished."""
        values = _values_of([*self.read, self.loop.index], environment)
        environment.update(dict.fromkeys(self.yielded.values()))
        self.mark = self.recorder.mark()
        self.handover.give((self.marks(), values))

    def turns(self) -> None:
        for turn in range(self.first, self.loop.total):
            marks, values = self.handover.take(turn)
            self.after(marks, list(values.values()))
            values = self.there(values)
            self.executor.loops.under_way[:] = [LoopUnderWay(self.loop.step, self.loop.total, {}, {}, {}, turn)]
            self.executor.steps(self.overlap.tail, values, {})
            results = self.back({source: values[source] for source in self.yielded.values()})
            self.done = turn, self.marks(), results
            self.handover.finish()
            del values, results

    def taken_back(self) -> None:
        if self.done is not None:
            turn, marks, results = self.done
            self.done = None
            for name, source in self.yielded.items():
                self.loop.collected[name][turn] = results[source]
            self.after(marks, list(results.values()))
        self.tell_effects()


class FollowerLane(Lane):
    """Runs the loop over the results of another loop, each turn as soon as its value is there."""

    def __init__(
        self,
        overlap: Overlap,
        main: Executor,
        recorder: Recorder,
        stored: StoredSteps | None,
        other: OtherDevice | None,
        environment: Environment,
    ) -> None:
        super().__init__(overlap, main, recorder, stored, 0, other)
        assert overlap.follower is not None
        self.follower = overlap.follower
        loop = main.loops.under_way[-1]
        self.arriving: dict[str, Arriving] = {}
        for arg in self.follower.loop.over.values():
            if isinstance(arg.source, Ref) and arg.source.node == loop.step.loop.id:
                self.arriving[arg.source.port] = Arriving(loop.total, self._arrive)
        self.values = _values_of(used(self.follower.loop), environment)
        self.values |= {Ref(loop.step.loop.id, port): values for port, values in self.arriving.items()}
        self.loop, self.given, self._arrived = loop, 0, -1
        self.begun = self.marks()
        self.results: Environment = {}
        self._made = [Ref(overlap.follower.loop.id, port) for port in output_ports(overlap.follower.loop)]
        self.ended_at: list[Any] = []
        self.executor.wrap = StepWraps([_Finishing(self), self.executor.wrap])
        self.thread.start()

    def give(self) -> None:
        """Give the tails of all turns that are over."""
        for turn in range(self.given, self.loop.turn):
            values = {port: self.loop.collected[port][turn] for port in self.arriving}
            for port, value in values.items():
                self.arriving[port][turn] = value
            self.handover.give((self.marks(), list(values.values())))
        self.given = self.loop.turn

    def _arrive(self, turn: int) -> None:
        if turn > self._arrived:  # a wait for another variable of the loop may have taken it already
            self.after(*self.handover.take(turn))
            there = self.there({port: values[turn] for port, values in self.arriving.items()})
            for port, value in there.items():
                self.arriving[port][turn] = value
            self._arrived = turn

    def turns(self) -> None:
        self.after(self.begun, list(self.values.values()))
        arriving = {key: value for key, value in self.values.items() if isinstance(value, Arriving)}
        self.values |= self.there({key: value for key, value in self.values.items() if key not in arriving})
        self.executor.steps((self.follower,), self.values, self.executor.loops.outer)
        self.results = self.back({ref: self.values[ref] for ref in self._made if ref in self.values})
        self.ended_at = self.marks()

    def finish(self, environment: Environment) -> None:
        """Wait for the last tail, and take the results of the loop."""
        self.wait()
        self.end()
        self.mark = self.recorder.mark()
        self.take()
        environment.update(self.results)
        for freed in (self.follower.free_first, self.follower.free):
            self.main.free(freed, environment)

    def taken_back(self) -> None:
        self.after(self.ended_at, list(self.results.values()))
        self.tell_effects()


class _Finishing(StepWrap):
    """Reports to the lane that a turn of the follower is finished."""

    def __init__(self, lane: FollowerLane) -> None:
        self.lane = lane

    def turned(self, step: LoopStep, environment: Environment) -> None:
        if step is self.lane.follower:
            self.lane.handover.finish()


def _values_of(read: Iterable[Source], environment: Environment) -> Environment:
    """The values of sources that are in an environment."""
    keys = [key for key in read if isinstance(key, Ref | Var | Index)]
    return {key: environment[key] for key in keys if key in environment}
