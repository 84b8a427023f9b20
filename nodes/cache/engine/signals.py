"""Signals: the relative change of a tensor between two steps, as one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...support.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def relative_change(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """mean|before − now| / mean|before|, 0-dimensional, on the device: reading the number waits for the device.

    Both means are computed in the tensors' own dtype, as in DBCache (cache-dit) and TeaCache. For tensors of different
    shapes the change is infinite.
    """
    if before.shape != now.shape:
        return before.new_full((), float("inf"))
    return (before - now).abs().mean() / before.abs().mean()


def changes(rows: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Relative changes between pairs of rows of [steps, width], waiting for the device once."""
    return numbers([relative_change(rows[before], rows[now]) for before, now in pairs])


def numbers(scalars: Sequence[torch.Tensor]) -> list[float]:
    """The numbers in 0-dimensional tensors, waiting for the device once."""
    if len(scalars) <= 1:
        return [scalar.item() for scalar in scalars]
    return torch.stack(list(scalars)).tolist()


class Drift:
    """EasyCache's estimate of the relative change of the model's output, from the model's inputs (2507.02860).

    The output is assumed to change k times as fast as the input, where k comes from the last two computed steps. The
    estimate is k · mean|x − x'| / mean|y|, where x' is the input of the step before and y the last computed output.
    """

    def __init__(self) -> None:
        self.before: torch.Tensor | None = None
        self.computed: tuple[torch.Tensor, torch.Tensor] | None = None
        self.rate: torch.Tensor | None = None

    def measure(self, given: torch.Tensor) -> torch.Tensor | None:
        """The estimated relative change, 0-dimensional; None until two steps have been computed."""
        if self.before is None or self.computed is None or self.rate is None:
            return None
        return self.rate * ((given - self.before).abs().mean() / self.computed[1].abs().mean())

    def passed(self, given: torch.Tensor) -> None:
        """Store the input of a step, computed or not."""
        self.before = given

    def learned(self, given: torch.Tensor, made: torch.Tensor) -> None:
        """Store the input and the output of a computed step."""
        if self.computed is not None:
            before, output = self.computed
            self.rate = (made - output).abs().mean() / (given - before).abs().mean()
        self.computed = (given, made)
