"""A whole transformer behind a tuned gate: computed, or predicted as a weighted sum of earlier predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...families.base import DenoiserInput
from ...support import batch_rows
from ..tuning.step_plan import StepPlan
from .gated_component import Call
from .row_cache import RowCache, decide

KEPT = 2
"""The number of computed predictions that a row keeps."""

HOLD = (1.0,)
"""Weights of a step that has none in the plan: the latest prediction, as in the trial steps of `sgd plan`."""


class TunedModel:
    """Computes rows of a batch, or predicts them from the predictions of the two latest computed steps.

    Args:
        transformer: The component.
        plan: The weights.
    """

    def __init__(self, transformer: Any, plan: StepPlan) -> None:
        self.transformer, self.plan = transformer, plan
        self.dtype: torch.dtype | None = None  # predictions have their dtype

    def evaluate(self, caches: Sequence[RowCache], index: int, given: DenoiserInput, call: Call) -> torch.Tensor:
        """The predictions for a batch; `caches` has the memory of each row, the rest is as in `Engine.evaluate`."""
        computed = decide(caches, index, [None] * len(caches), lambda row: None)
        parts = []
        if computed:
            made = call(self.transformer, given.of_rows(computed))
            rows = [self._corrected(caches[row], index, made[at : at + 1]) for at, row in enumerate(computed)]
            for at, row in enumerate(computed):
                caches[row].predictions = (made[at : at + 1], *caches[row].predictions)[:KEPT]
                caches[row].hidden.step = index
            parts.append((computed, torch.cat(rows) if index in self.plan.corrected else made))
        if reused := batch_rows.others(computed, len(caches)):
            weights = self.plan.predicted.get(index, HOLD)
            parts.append((reused, torch.cat([weighted(weights, caches[row].predictions) for row in reused])))
        return batch_rows.put_together(parts)

    def _corrected(self, cache: RowCache, index: int, made: torch.Tensor) -> torch.Tensor:
        """A computed prediction [1, ...], with what the reused steps before it lacked."""
        weights = self.plan.corrected.get(index)
        known = (made, *cache.predictions)
        if weights is None or len(known) < len(weights):
            return made
        return weighted((1.0 + weights[0], *weights[1:]), known)


def weighted(weights: Sequence[float], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weighted sum of tensors of one shape, added in float32, in the dtype of the tensors."""
    total = weights[0] * tensors[0].float()
    for weight, tensor in zip(weights[1:], tensors[1:], strict=False):
        total = total + weight * tensor.float()
    return total.to(tensors[0].dtype)
