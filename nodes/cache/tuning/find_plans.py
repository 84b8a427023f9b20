"""Find the best steps to compute, for every number of computed steps at once, by dynamic programming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from .linear_predictor import Measurement, Vector
from .step_plan import StepPlan

LONGEST_GAP = 14
"""The most reused steps in a row, as in the prototype of the method (`docs/tuning.md`)."""

PREDICTED = 0.2
"""Weight of the error before the correction: the computed step saw those latents, and later steps do not."""

Pair = tuple[int, int]
"""The last two computed steps; -1 for none."""


class Gaps:
    """The runs of reused steps between computed steps, and the cost of each.

    Args:
        measured: The velocities of the schedule.
    """

    def __init__(self, measured: Measurement) -> None:
        self.measured = measured
        self.predicted = lru_cache(maxsize=None)(self._predicted)

    def _predicted(self, step: int, before: int, last: int) -> Vector:
        """Weights [n] that predict a reused step from the last two computed ones."""
        return self._spread(step, (last,) if before < 0 else (before, last))

    def _spread(self, step: int, known: Sequence[int]) -> Vector:
        weights = np.zeros(self.measured.steps)
        weights[list(known)] = self.measured.weights(step, known)
        return weights

    def errors(self, before: int, last: int, next: int) -> tuple[Vector, Vector | None]:
        """The error of the latents after the reused steps of a gap, as weights [n] of velocities.

        Returns:
            The error as predicted, and as corrected by the computed step `next`; None if the gap ends the run.
        """
        deltas, steps = self.measured.deltas, self.measured.steps
        predicted, corrected = np.zeros(steps), np.zeros(steps)
        for step in range(last + 1, next):
            exact = np.eye(steps)[step]
            predicted += deltas[step] * (self.predicted(step, before, last) - exact)
            if next < steps:
                corrected += deltas[step] * (self._spread(step, (last, next)) - exact)
        return predicted, corrected if next < steps else None

    def cost(self, before: int, last: int, next: int) -> float:
        """The expected squared error in the final latents that comes from a gap."""
        if next == last + 1:
            return 0.0
        predicted, corrected = self.errors(before, last, next)
        gain = float(self.measured.gains[next]) ** 2
        if corrected is None:
            return gain * self.measured.squared_error(predicted)
        return gain * (self.measured.squared_error(corrected) + PREDICTED * self.measured.squared_error(predicted))

    def plan(self, computed: Sequence[int]) -> StepPlan:
        """The plan that computes given steps, the first step among them."""
        steps, deltas = self.measured.steps, self.measured.deltas
        predicted: dict[int, tuple[float, ...]] = {}
        corrected: dict[int, tuple[float, ...]] = {}
        for before, last, next in zip((-1, *computed), computed, (*computed[1:], steps), strict=False):
            known = [last] if before < 0 else [last, before]
            for step in range(last + 1, next):
                weights = self.predicted(step, before, last)
                predicted[step] = tuple(float(weights[at]) for at in known)
            if last + 1 < next < steps:
                first, second = self.errors(before, last, next)
                assert second is not None, "a computed step ends the gap"
                # The latents lack (predicted - corrected); the step itself adds its velocity times its own delta.
                missing = (second - first) / deltas[next]
                corrected[next] = tuple(float(missing[at]) for at in (next, *known))
        mask = "".join(str(int(step in set(computed))) for step in range(steps))
        return StepPlan(mask, predicted, corrected)


def find_plans(measured: Measurement) -> dict[int, StepPlan]:
    """The best plan for each number of computed steps, from the fewest that are possible to all.

    Args:
        measured: The velocities of the schedule.
    """
    gaps, steps = Gaps(measured), measured.steps
    reached: dict[Pair, tuple[float, tuple[int, ...]]] = {(-1, 0): (0.0, (0,))}
    best: dict[int, StepPlan] = {}
    costs: dict[tuple[int, int, int], float] = {}

    def cost(before: int, last: int, next: int) -> float:
        key = (before, last, next)
        if key not in costs:
            costs[key] = gaps.cost(*key)
        return costs[key]

    for count in range(1, steps + 1):
        ends = [
            (total + cost(before, last, steps), taken)
            for (before, last), (total, taken) in reached.items()
            if steps - last - 1 <= LONGEST_GAP
        ]
        if ends:
            best[count] = gaps.plan(min(ends)[1])
        after: dict[Pair, tuple[float, tuple[int, ...]]] = {}
        for (before, last), (total, taken) in reached.items():
            for next in _reachable(last, steps):
                found = (total + cost(before, last, next), (*taken, next))
                pair = (last, next)
                if pair not in after or found < after[pair]:
                    after[pair] = found
        reached = after
    return best


def _reachable(last: int, steps: int) -> Iterator[int]:
    yield from range(last + 1, min(last + LONGEST_GAP + 1, steps - 1) + 1)
