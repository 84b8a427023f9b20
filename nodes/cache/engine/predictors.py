"""Predictors: a tensor in place of the residual of blocks that are not computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Taylor:
    """A Taylor expansion of a tensor over the steps (TaylorSeer, 2503.06923).

    d₀ is the tensor at the last computed step and dᵢ₊₁ = (dᵢ − dᵢ before) / w, w the steps between the last two
    computed ones; the prediction is Σ dᵢ eⁱ / i!, e the steps since. An order needs one computed step more than itself;
    until then the expansion ends earlier. Of order 0 it is the tensor as it was last.

    The calibrator of the cache-dit package is not used: it begins to differentiate at the fourth computed step.
    """

    def __init__(self, order: int) -> None:
        self.order = order
        self.derivatives: list[torch.Tensor] = []
        self.step = -1

    def update(self, step: int, tensor: torch.Tensor) -> None:
        """Take note of the tensor at a computed step."""
        made = [tensor]
        if self.derivatives and self.derivatives[0].shape == tensor.shape:
            window = step - self.step
            for before in self.derivatives[: self.order]:
                made.append((made[-1] - before) / window)
        self.derivatives, self.step = made, step

    def predict(self, step: int) -> torch.Tensor:
        """The tensor at a step that is not computed."""
        if len(self.derivatives) == 1:
            return self.derivatives[0]
        elapsed = step - self.step
        terms = [(1 / math.factorial(i)) * d * (elapsed**i) for i, d in enumerate(self.derivatives)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
