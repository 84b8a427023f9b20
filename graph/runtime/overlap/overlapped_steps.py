"""Wraps the steps of a run: gives the tails of loops to second threads, and takes their results."""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.ir import Ref
from ...compiler.overlaps import Overlap
from ...compiler.plan import Acquire, CallStep, LoopStep, Release, Step
from ..arguments import Environment
from ..execute import Executor
from ..record import Recorder
from ..step_wrap import StepWrap, StepWraps
from ..stored_steps import StoredSteps
from .lanes import BodyLane, FollowerLane
from .other_device import OtherDevice


class OverlappedSteps(StepWrap):
    """Runs the tails of a plan's loops beside their heads.

    Args:
        overlaps: The loops and their tails.
        executor: The executor. This object puts itself around its steps.
        recorder: The recorder of the run.
        stored: The store around the steps; None without one.
        device: The device of the tails; None for that of the run.
    """

    def __init__(
        self,
        overlaps: Sequence[Overlap],
        executor: Executor,
        recorder: Recorder,
        stored: StoredSteps | None,
        device: str | None = None,
    ) -> None:
        self.executor, self.recorder, self.stored, self.inner = executor, recorder, stored, executor.wrap
        executor.wrap, executor.overlapped = StepWraps([self, executor.wrap]), True
        self.loops = {each.loop.loop.id: each for each in overlaps}
        self.tails = {call.id: each for each in overlaps if each.follower is None for call in each.calls}
        self.followers = {each.follower.loop.id: each for each in overlaps if each.follower is not None}
        self.lanes: dict[str, BodyLane | FollowerLane] = {}
        self.early: set[Acquire] = set()
        self.other = OtherDevice(executor, device) if device is not None else None
        self.there = {each: overlap for overlap in overlaps for each in overlap.own} if device is not None else {}
        """Components that are on the other device alone."""
        self.left_out: set[tuple[Ref, str]] = set()
        """Those of them that the plan alone would have on the device of the run now."""
        recorder.overlap_device = device or ""

    def began(self, step: CallStep | LoopStep, environment: Environment) -> None:
        """Acquire the components of the loop's tails."""
        overlap = self.loops.get(step.loop.id) if isinstance(step, LoopStep) else None
        if overlap is None:
            return
        if self.other is not None:
            for acquire in (*overlap.own, *overlap.common):
                if not self.inner.replaces(acquire, environment):
                    self.other.acquire(overlap, acquire, environment)
            return
        for acquire in overlap.acquires:
            if acquire in self.early:  # acquired for the tails of another loop
                continue
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
        if isinstance(step, LoopStep):
            return self._finish_follower(step, environment)
        if isinstance(step, Acquire) and step in self.early:
            self.early.remove(step)
            return True
        return self._leaves_out(step)

    def _finish_follower(self, step: LoopStep, environment: Environment) -> bool:
        """Take the results of a loop that ran beside another one. Returns False if the loop did not."""
        overlap = self.followers.get(step.loop.id)
        before = overlap.loop.loop.id if overlap is not None else ""
        lane = self.lanes.get(before)
        if overlap is None or not isinstance(lane, FollowerLane):
            return False
        lane.finish(environment)
        del self.lanes[before]
        if self.other is not None:
            self.other.release(overlap)
        return True

    def _leaves_out(self, step: Acquire | Release) -> bool:
        """Whether the step is for a component that is on the other device instead."""
        key = step.holder, step.part
        if isinstance(step, Release):
            there = key in self.left_out
            self.left_out.discard(key)
            return there
        overlap = self.there.get(step)
        if overlap is None or self.other is None:
            return False
        if overlap.follower is not None and overlap.loop.loop.id not in self.lanes:
            self.other.release(overlap)  # no turn of the loop ran, so the one over its results runs in this thread
            return False
        self.left_out.add(key)
        return True

    def running(self, steps: Sequence[Step], environment: Environment) -> tuple[Step, ...]:
        return tuple(step for step in steps if not (isinstance(step, Acquire) and step in self.there))

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
                if self.other is not None:
                    self.other.release(overlap)
            return
        if lane is None:
            lane = FollowerLane(overlap, self.executor, self.recorder, self.stored, self.other, environment)
            self.lanes[step.loop.id] = lane
        assert isinstance(lane, FollowerLane)
        self._check(overlap)
        lane.wait()
        lane.give()

    def _give_body(self, overlap: Overlap, environment: Environment) -> None:
        lane = self.lanes.get(overlap.loop.loop.id)
        if lane is None:
            lane = BodyLane(overlap, self.executor, self.recorder, self.stored, self.other)
            self.lanes[overlap.loop.loop.id] = lane
        assert isinstance(lane, BodyLane)
        self._check(overlap)
        lane.wait()
        lane.give(environment)

    def _check(self, overlap: Overlap) -> None:
        """Report the tail's calls to the value checks, which may wait for earlier results before them."""
        checks = self.executor.checks
        for call in overlap.calls:
            try:
                checks.node_started(call, {})
                checks.node_finished(call, 0.0, {})
            except Exception as error:
                raise self.executor.failed(call, {}, error) from error

    def settled(self) -> bool:
        """Whether the tails of all past turns are done. A resumed run repeats those of a loop over the results."""
        for lane in self.lanes.values():
            if isinstance(lane, BodyLane):
                if not lane.handover.idle:
                    return False
                lane.take()
        return True

    def ended(self) -> None:
        """End the threads of a run that failed. A tail under way runs to its end, and its error is raised first."""
        lanes, self.lanes = list(self.lanes.values()), {}
        for lane in lanes:
            lane.end()
        try:
            for lane in lanes:
                if isinstance(lane, FollowerLane):
                    lane.mark = self.recorder.mark()
                    lane.note()
                else:
                    lane.note()
                    lane.taken_back()
                    lane.require_success()
        finally:
            if self.other is not None:
                self.other.end()
