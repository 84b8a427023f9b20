"""Values of all steps of a loop at once.

A block multiplies the embedding of the timestep with weights of many megabytes. For one row, the product takes as long
as reading them; for the rows of all steps it takes hardly longer. So the first step of a loop makes a table of all
steps, and each step takes its part. A table has all steps of the schedule, also in a run that begins with a later one,
so that such a run has equal bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch

from .loop_values import LoopSteps, Values


@dataclass(frozen=True)
class Table:
    """A value at each step of a loop.

    Attributes:
        whole: The values of all steps. For one step they have one row for each row of the batch, or one for all rows.
        held: Keeps it, and what is made from it. The reference is weak: nothing outlasts a loop.
        name: Its name there.
        axis: The dimension of the steps.
    """

    whole: torch.Tensor
    held: weakref.ref[Values]
    name: Hashable
    axis: int = 0

    def at(self, steps: LoopSteps | None) -> torch.Tensor:
        """The value at the step of a forward: a view, or a copy for a CUDA graph, which cannot take another view."""
        assert steps is not None, "without steps there are no tables"
        if steps.place is None:
            return self.whole.select(self.axis, steps.index)
        return self.whole.index_select(self.axis, steps.place).squeeze(self.axis)

    def then(self, key: Hashable, make: Callable[[torch.Tensor], torch.Tensor], axis: int = 0) -> Table:
        """A table that is made from this one, once a loop.

        Args:
            key: Its name among the tables that are made from this one.
            make: Takes and returns the values of all steps.
            axis: The dimension of the steps in the new table.
        """
        held, name = self.held(), (self.name, key)
        assert held is not None, "a forward reads tables of its own loop"
        return held.of(name, lambda: Table(make(self.whole), self.held, name, axis))


def placed(steps: LoopSteps | None, device: torch.device) -> LoopSteps | None:
    """The steps of a loop for a CUDA graph, which reads this step's number from the device."""
    return None if steps is None else replace(steps, place=torch.tensor([steps.index], device=device))
