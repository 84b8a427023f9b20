"""`StepPlan`: the steps that a tuned gate computes, and how it makes up the others. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepPlan:
    """The computed steps of a schedule, and weights of velocities at the others.

    Weights are those of the velocities of the latest computed step and of the one before it, in this order.

    Attributes:
        mask: One digit for each step: 1 (compute) or 0 (reuse).
        predicted: For each reused step, the weights that make its velocity; one weight if only one step was computed.
        corrected: For a computed step that ends a run of reused steps, the weights by which its own velocity and those
            two are added to its own velocity. This takes back the error of the reused steps.
    """

    mask: str
    predicted: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    corrected: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def computed(self) -> int:
        """Number of computed steps."""
        return self.mask.count("1")
