"""Around the steps of a run: gives the tails of loops to second threads, and takes their results."""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.overlaps import Overlap
from ...compiler.plan import Acquire, CallStep, LoopStep, Step
from ..arguments import Environment
from ..execute import Executor
from ..record import Recorder
from ..step_wrap import StepWrap, StepWraps
from ..stored_steps import StoredSteps
from .lanes import BodyLane, FollowerLane


class OverlappedSteps(StepWrap):
    """Runs the tails of a plan's loops beside their heads.

    Args:
        overlaps: The loops and their tails.
        executor: The executor, which takes this around its steps.
        recorder: The recorder of the run.
        stored: The store around the steps; None without one.
    """

    def __init__(
        self, overlaps: Sequence[Overlap], executor: Executor, recorder: Recorder, stored: StoredSteps | None
    ) -> None:
        self.executor, self.recorder, self.stored, self.inner = executor, recorder, stored, executor.wrap
        executor.wrap = StepWraps([self, executor.wrap])
        self.loops = {each.loop.loop.id: each for each in overlaps}
        self.tails = {call.id: each for each in overlaps if each.follower is None for call in each.calls}
        self.followers = {each.follower.loop.id: each for each in overlaps if each.follower is not None}
        self.lanes: dict[str, BodyLane | FollowerLane] = {}
        self.early: set[Acquire] = set()

    def began(self, step: CallStep | LoopStep, environment: Environment) -> None:
        """Acquire the components of the loop's tails."""
        overlap = self.loops.get(step.loop.id) if isinstance(step, LoopStep) else None
        for acquire in overlap.acquires if overlap is not None else ():
            self.early.add(acquire)
            if not self.inner.replaces(acquire, environment):
                self.executor.components.acquire(acquire, environment)

    def replaces(self, step: Step, environment: Environment) -> bool:
        for each in self.lanes.values():
            each.require_success()
        if isinstance(step, CallStep):
            overlap = self.tails.get(step.call.id)
            if overlap is not None and step is overlap.tail[0]:
                self._give_body(overlap, environment)
            return overlap is not None
        if isinstance(step, LoopStep) and step.loop.id in self.followers:
            before = self.followers[step.loop.id].loop.loop.id
            lane = self.lanes.get(before)
            if isinstance(lane, FollowerLane):
                lane.finish(environment)
                del self.lanes[before]
                return True
        if isinstance(step, Acquire) and step in self.early:
            self.early.remove(step)
            return True
        return False

    def turned(self, step: LoopStep, environment: Environment) -> None:
        overlap = self.loops.get(step.loop.id)
        if overlap is None:
            return
        lane = self.lanes.get(step.loop.id)
        if overlap.follower is None:
            if isinstance(lane, BodyLane) and lane.loop.turn == lane.loop.total:
                lane.wait()
                lane.end()
                lane.require_success()
                del self.lanes[step.loop.id]
            return
        if lane is None:
            lane = FollowerLane(overlap, self.executor, self.recorder, self.stored, environment)
            self.lanes[step.loop.id] = lane
        assert isinstance(lane, FollowerLane)
        self._check(overlap)
        lane.wait()
        lane.give()

    def _give_body(self, overlap: Overlap, environment: Environment) -> None:
        lane = self.lanes.get(overlap.loop.loop.id)
        if lane is None:
            lane = BodyLane(overlap, self.executor, self.recorder, self.stored)
            self.lanes[overlap.loop.loop.id] = lane
        assert isinstance(lane, BodyLane)
        self._check(overlap)
        lane.wait()
        lane.give(environment)

    def _check(self, overlap: Overlap) -> None:
        """Let the checks of values hear of the tail's calls, before which they may wait for their results."""
        checks = self.executor.checks
        for call in overlap.calls:
            try:
                checks.node_started(call, {})
                checks.node_finished(call, 0.0, {})
            except Exception as error:
                raise self.executor.failed(call, {}, error) from error

    def settled(self) -> bool:
        """Whether no tail of a turn that is over is left: those of a loop over the results are run again."""
        for lane in self.lanes.values():
            if isinstance(lane, BodyLane):
                if not lane.handover.idle:
                    return False
                lane.take()
        return True

    def ended(self) -> None:
        """End the threads of a run that failed. A tail under way comes to its end, and its error comes first."""
        lanes, self.lanes = list(self.lanes.values()), {}
        for lane in lanes:
            lane.end()
        for lane in lanes:
            if isinstance(lane, FollowerLane):
                lane.mark = self.recorder.mark()
                lane.note()
            else:
                lane.note()
                lane.taken_back()
                lane.require_success()
