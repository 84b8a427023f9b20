"""Predictors: estimate the residual of blocks that are not computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...support import batch_rows
from .kept_rows import KeptRow, keep, together

if TYPE_CHECKING:
    import torch


class Taylor:
    """A Taylor expansion of a row over the steps (TaylorSeer, 2503.06923).

    d₀ is the row at the last computed step and dᵢ₊₁ = (dᵢ − dᵢ before) / w, w the steps between the last two computed
    ones; the prediction is Σ dᵢ eⁱ / i!, e the steps since. An order needs one computed step more than itself; until
    then the expansion ends earlier. Of order 0 it is the row as it was last. `update` and `predict` work on several
    rows at once.

    The calibrator of the cache-dit package is not used, because it computes derivatives only from the fourth computed
    step on.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self.derivatives: list[KeptRow] = []
        self.step = -1

    @property
    def length(self) -> int | None:
        """Number of tokens without padding; None before there is a row, or if any length will do."""
        return self.derivatives[0].length if self.derivatives else None


def update(
    expansions: Sequence[Taylor], step: int, tensor: torch.Tensor, lengths: Sequence[int | None] | None = None
) -> None:
    """Take note of rows at a step at which they are computed.

    Args:
        expansions: The expansion of each row.
        step: The step.
        tensor: The rows [len(expansions), tokens, ...]. Nothing writes into this tensor.
        lengths: The rows' numbers of tokens without padding; None if any length will do.
    """
    lengths = [None] * len(expansions) if lengths is None else lengths
    for expansion, length in zip(expansions, lengths, strict=True):
        if expansion.length != length:
            expansion.derivatives = []  # of a row of another size
    for rows in _alike(expansions):
        group = [expansions[row] for row in rows]
        first, made = group[0], [batch_rows.take(tensor, rows)]
        for number in range(min(first.order, len(first.derivatives))):
            before = together([one.derivatives[number] for one in group], tensor.shape[1])
            made.append((made[-1] - before) / (step - first.step))
        own = [lengths[row] for row in rows]
        kept = [
            keep([one.derivatives[number] if number < len(one.derivatives) else None for one in group], derivative, own)
            for number, derivative in enumerate(made)
        ]
        for expansion, *derivatives in zip(group, *kept, strict=True):
            expansion.derivatives, expansion.step = derivatives, step


def predict(expansions: Sequence[Taylor], step: int, tokens: int) -> torch.Tensor:
    """Rows [len(expansions), tokens, ...] at a step at which they are not computed."""
    parts = []
    for rows in _alike(expansions):
        group = [expansions[row] for row in rows]
        derivatives = zip(*(one.derivatives for one in group), strict=True)
        parts.append((rows, _expanded([together(d, tokens) for d in derivatives], step - group[0].step)))
    return batch_rows.put_together(parts)


def _expanded(derivatives: Sequence[torch.Tensor], elapsed: int) -> torch.Tensor:
    if len(derivatives) == 1:
        return derivatives[0]
    terms = [(1 / math.factorial(i)) * d * (elapsed**i) for i, d in enumerate(derivatives)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _alike(expansions: Sequence[Taylor]) -> list[list[int]]:
    """The numbers of the rows, in groups that were computed last at one step and have as many derivatives.

    Without an order the step has no effect, so that rows that lie together stay together.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for row, expansion in enumerate(expansions):
        step = expansion.step if expansion.order else -1
        groups.setdefault((step, len(expansion.derivatives)), []).append(row)
    return list(groups.values())
