"""Predict velocities of a denoising run as weighted sums of velocities of other steps.

Everything follows from one matrix: the products of the velocities c_i of every two steps, averaged over prompts (the
Gram matrix). With it, the expected squared error of every weighted sum is a quadratic form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

RIDGE = 1e-6
"""The ridge of the fit, as a share of the mean diagonal of the matrix that is inverted."""


@dataclass(frozen=True)
class Measurement:
    """The measured velocities of a schedule of n steps.

    Attributes:
        gram: Products of the velocities of every two steps [n, n], averaged over prompts.
        deltas: The change of the noise level at each step [n]: a step adds `deltas[i]` times the velocity.
        gains: For each step the factor [n + 1] by which an error in its input has grown in the final latents. The last
            entry, of the final latents themselves, is 1.
    """

    gram: Vector
    deltas: Vector
    gains: Vector

    @property
    def steps(self) -> int:
        return len(self.deltas)

    @cached_property
    def scale(self) -> float:
        """Mean of the squared velocities, to compare errors with."""
        return float(np.trace(self.gram) / self.steps)

    def weights(self, step: int, known: Sequence[int]) -> Vector:
        """Weights of the velocities of known steps for the velocity of another step.

        They minimise the expected squared error. The ridge pulls them towards the velocity of the last known step
        alone, unchanged.

        Args:
            step: The step to predict.
            known: Steps whose velocities are known; the last is the nearest.
        """
        at = list(known)
        last = np.zeros(len(at))
        last[-1] = 1.0
        matrix = self.gram[np.ix_(at, at)]
        ridge = RIDGE * np.trace(matrix) / len(at) * np.eye(len(at))
        found: Vector = last + np.linalg.solve(matrix + ridge, self.gram[at, step] - matrix @ last)
        return found

    def squared_error(self, sums: Vector) -> float:
        """The expected squared length of a weighted sum [n] of velocities."""
        return max(float(sums @ self.gram @ sums), 0.0)
