"""`Turn`: the data that a gate can use in one call of `denoiser.predict`. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...graph.contract.node import Run
from ..models.model import Model
from ..values import Branches, Size, Step
from .engine.gated_component import Parts


@dataclass(frozen=True)
class Turn:
    """One call of `denoiser.predict`.

    Attributes:
        model: The model.
        transformer: The model's transformer, in memory.
        step: The step of the schedule.
        branches: The guidance branches of the loop.
        size: Size of the clip in pixels.
        image: Whether the model is given an image.
        run: Receives decisions and warnings.
        parts: The parts of the sequence; None if one process computes it.
    """

    model: Model
    transformer: Any
    step: Step
    branches: Branches
    size: Size
    image: bool
    run: Run
    parts: Parts | None = None

    @property
    def component(self) -> str:
        """The transformer's name in the repository."""
        return self.model.name("transformer")

    @property
    def window(self) -> tuple[int, ...]:
        """The steps of the schedule at which the model is in use."""
        return tuple(range(self.step.count)) if self.model.steps is None else self.model.steps

    @property
    def branches_take_turns(self) -> bool:
        """Whether several branches run at any step, in one call each."""
        branches, count = self.branches, self.step.count
        return not branches.batched and any(len(branches.active_at(index, count)) > 1 for index in self.window)

    @property
    def index(self) -> int:
        """The number of this step among the steps of the component, from 0."""
        return self.window.index(self.step.index)

    def steps_left(self, branches: Sequence[str]) -> int:
        """Steps, this one included, at which the model computes these branches."""
        count, now = self.step.count, self.step.index
        steps = [self.branches.active_steps(branch, count) for branch in branches]
        return sum(index >= now and all(index in each for each in steps) for index in self.window)
