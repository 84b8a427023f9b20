"""`cache.tuned`: follow the plan that `sgd tune` found for this model and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..gate import Gate
from ..tuning.tuned_table import KIND
from .gate_node import gate_node


@gate_node("cache.tuned")
def tuned(*, table: Path, psnr: Annotated[float, Field(gt=0, le=100)]) -> Gate:
    """Compute the steps that `sgd tune` chose, and predict the others from them.

    The velocity of a reused step is a weighted sum of the velocities of the two latest computed steps. The next
    computed step takes back the error of that sum. The steps and weights were fitted for one model and schedule.
    Of the table's plans, the gate follows the one with the fewest computed steps that keeps `psnr`: the worst clip that
    was tried kept it, and with 95 % confidence 999 of 1,000 others do (a one-sided normal tolerance bound).
    All decisions are known before the run, so nothing waits for the device.

    The gate needs Euler's step and guidance that is linear in the predictions (`cfg` without `rescale`), at all steps
    or at none. For a number of steps that the table does not cover, every step is computed, with a warning.

    Args:
        table: The table that `sgd tune` wrote.
        psnr: PSNR in dB that the decoded clip keeps against the run that computes every step, above 0 and at most 100.
            It was measured on prompts and seeds of `sgd tune`; use prompts of the same kind.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the table was made for another model or schedule, or has no plan that keeps `psnr`.
    """
    return Gate(KIND, signal="model", rule="mask", table=str(table), options={"psnr": psnr})
