"""Code around the steps of a plan: the executor asks it before each step, and tells it after each."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.plan import CallStep, LoopStep, Step
from .arguments import Environment


class StepWrap:
    """Base class: every step runs."""

    def replaces(self, step: Step, environment: Environment) -> bool:
        """Whether a step need not run. Then the values that later steps read of it are in the environment."""
        return False

    def began(self, step: CallStep | LoopStep, environment: Environment) -> None:
        """A step is about to run."""

    def ran(self, step: CallStep | LoopStep, environment: Environment) -> None:
        """A step has run. The environment has its values, without those that nobody reads."""

    def turned(self, step: LoopStep, environment: Environment) -> None:
        """A turn of a loop is over. The environment has the state that goes to the next one."""

    def running(self, steps: Sequence[Step], environment: Environment) -> tuple[Step, ...]:
        """Those of the next steps that will run."""
        return tuple(steps)

    def waits(self, steps: Sequence[Step]) -> bool:
        """Whether this process waits for another one before the first acquisition among the next steps."""
        return False

    def settled(self) -> bool:
        """Whether every step from here on runs, so that a run may be resumed here without this wrap."""
        return True

    def ended(self) -> None:
        """Called when no step runs any more: the run is over, or it failed."""


class StepWraps(StepWrap):
    """Several wraps, the outermost first."""

    def __init__(self, wraps: Sequence[StepWrap]) -> None:
        self.wraps = tuple(wraps)

    def replaces(self, step: Step, environment: Environment) -> bool:
        return any(wrap.replaces(step, environment) for wrap in self.wraps)

    def began(self, step: CallStep | LoopStep, environment: Environment) -> None:
        for wrap in self.wraps:
            wrap.began(step, environment)

    def ran(self, step: CallStep | LoopStep, environment: Environment) -> None:
        for wrap in reversed(self.wraps):
            wrap.ran(step, environment)

    def turned(self, step: LoopStep, environment: Environment) -> None:
        for wrap in reversed(self.wraps):
            wrap.turned(step, environment)

    def running(self, steps: Sequence[Step], environment: Environment) -> tuple[Step, ...]:
        for wrap in self.wraps:
            steps = wrap.running(steps, environment)
        return tuple(steps)

    def waits(self, steps: Sequence[Step]) -> bool:
        return any(wrap.waits(steps) for wrap in self.wraps)

    def settled(self) -> bool:
        return all(wrap.settled() for wrap in self.wraps)

    def ended(self) -> None:
        for wrap in self.wraps:
            wrap.ended()
