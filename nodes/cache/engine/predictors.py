"""Predictors: estimate the residual of blocks that are not computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Taylor:
    """A Taylor expansion of a tensor over the steps (TaylorSeer, 2503.06923).

    d₀ is the tensor at the last computed step, and dᵢ₊₁ = (dᵢ − previous dᵢ) / w, where w is the number of steps
    between the last two computed steps. The prediction is Σ dᵢ eⁱ / i!, where e is the number of steps since the last
    computed step. Order n needs n + 1 computed steps; until then the expansion has fewer terms. With order 0, the
    prediction is the tensor at the last computed step.

    The calibrator of the cache-dit package is not used, because it computes derivatives only from the fourth computed
    step on.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self.derivatives: list[torch.Tensor] = []
        self.step = -1

    def update(self, step: int, tensor: torch.Tensor) -> None:
        """Store the tensor of a computed step."""
        made = [tensor]
        if self.derivatives and self.derivatives[0].shape == tensor.shape:
            window = step - self.step
            for before in self.derivatives[: self.order]:
                made.append((made[-1] - before) / window)
        self.derivatives, self.step = made, step

    def predict(self, step: int) -> torch.Tensor:
        """Predict the tensor at a step that is not computed."""
        if len(self.derivatives) == 1:
            return self.derivatives[0]
        elapsed = step - self.step
        terms = [(1 / math.factorial(i)) * d * (elapsed**i) for i, d in enumerate(self.derivatives)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
