"""Code around the steps of a plan: the executor asks it before each step, and tells it after each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..compiler.ir import Loop
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

    def receives(self, step: Step) -> bool:
        """Whether `replaces` will wait for the values of a step. What the next steps need is loaded meanwhile."""
        return False

    def carried(self, loop: Loop, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The state that goes from one turn of a loop to the next."""
        return values

    def running(self, steps: Sequence[Step], environment: Environment) -> tuple[Step, ...]:
        """Those of the next steps that will run."""
        return tuple(steps)

    def settled(self) -> bool:
        """Whether every step from here on runs, so that a run may be resumed here without this wrap."""
        return True
