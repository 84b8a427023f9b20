"""Tables of tuned gates: the file that `sgd tune` writes. Torch-free.

docs/tuning.md describes the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from ..calibration.table import Identity, Part, Source, read_table
from .step_plan import StepPlan

KIND = "tuned"
KEY = "sgd_tuned"
AGAIN = "make a table for this model and schedule with `sgd tune`"

Weights = list[FiniteFloat]


class Fidelity(Part):
    """PSNR in dB of decoded clips against the run that computes every step; 100 stands for equal pixels.

    `bound` is the tolerance bound of the clips (`tolerance_bound.py`), from their mean and standard deviation.
    """

    worst: FiniteFloat
    median: FiniteFloat
    mean: FiniteFloat
    deviation: FiniteFloat
    bound: FiniteFloat
    clips: int = Field(ge=2)

    @property
    def kept(self) -> float:
        """The PSNR in dB that the plan keeps: that of the worst clip, or the bound if it is lower."""
        return min(self.worst, self.bound)


class TunedPlan(Part):
    """A plan: its mask, its weights by step, and the fidelity that it was measured to have."""

    mask: str = Field(pattern="^1[01]*$")
    predicted: dict[int, Weights]
    corrected: dict[int, Weights]
    psnr: Fidelity

    @model_validator(mode="after")
    def _one_entry_for_each_reused_step(self) -> TunedPlan:
        reused = {step for step, digit in enumerate(self.mask) if digit == "0"}
        if set(self.predicted) != reused:
            raise ValueError("`predicted` does not have one entry for each 0 of the mask")
        if not all(0 <= step < len(self.mask) and self.mask[step] == "1" for step in self.corrected):
            raise ValueError("`corrected` has a step that is not computed")
        if not all(1 <= len(weights) <= 2 for weights in self.predicted.values()):
            raise ValueError("a reused step has one weight or two")
        if not all(2 <= len(weights) <= 3 for weights in self.corrected.values()):
            raise ValueError("a correction has two weights or three")
        return self

    def as_step_plan(self) -> StepPlan:
        return StepPlan(
            self.mask,
            {step: tuple(weights) for step, weights in self.predicted.items()},
            {step: tuple(weights) for step, weights in self.corrected.items()},
        )


class TunedSchedule(Part):
    """The plans for one number of steps.

    `measured` and `chosen` are SHA-256 digests of the prompts: of those whose velocities were measured, and of those
    on which the fidelity was measured. No prompt is among both.
    """

    scheduler: str
    timesteps: list[FiniteFloat] = Field(min_length=2)
    size: list[int]
    scale: FiniteFloat
    measured: list[str]
    chosen: list[str]
    seeds: Literal["one for each clip", "one for all clips"]
    made: dict[str, Any]
    plans: list[TunedPlan]

    @model_validator(mode="after")
    def _masks_are_as_long(self) -> TunedSchedule:
        if any(len(plan.mask) != len(self.timesteps) for plan in self.plans):
            raise ValueError("a mask does not have one digit for each timestep")
        return self

    @property
    def best(self) -> float:
        """The highest PSNR that a plan keeps."""
        return max((plan.psnr.kept for plan in self.plans), default=0.0)

    def cheapest(self, psnr: float) -> TunedPlan | None:
        """The plan with the fewest computed steps that keeps a PSNR in dB; None if none does."""
        kept = [plan for plan in self.plans if plan.psnr.kept >= psnr]
        return min(kept, key=lambda plan: plan.mask.count("1"), default=None)


class TunedTable(Part):
    """The content of the table's file."""

    sgd_tuned: Literal[1]
    model: Source
    component: str
    identity: Identity
    schedules: list[TunedSchedule] = Field(min_length=1)

    def schedule(self, steps: int) -> TunedSchedule | None:
        """The plans for a number of steps."""
        return next((found for found in self.schedules if len(found.timesteps) == steps), None)

    @property
    def counts(self) -> Sequence[int]:
        """The numbers of steps that the table covers, ascending."""
        return sorted(len(schedule.timesteps) for schedule in self.schedules)


def read(path: str | Path) -> TunedTable:
    """Read a table from its file.

    Raises:
        NodeError: If there is no such file, or the file does not hold a table of this version.
    """
    return read_table(path, KEY, TunedTable, AGAIN)
