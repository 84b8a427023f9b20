"""`GatedComponent`: the transformer behind a gate, in one run of a loop. Torch-free at import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...families.base import Family

Distances = Callable[[Sequence[tuple[int, int]]], list[float]]
"""Changes of a signal between pairs of steps, for signals that follow from the schedule alone."""


@dataclass(frozen=True)
class GatedComponent:
    """A component in one run of a loop.

    Attributes:
        transformer: The module; a gate leaves it as it is between calls.
        family: How it is called.
        steps: Number of steps of the component.
        active: The component's steps at which a branch runs, by name.
        distances: The signal's changes between pairs of steps, for signals that are known ahead.
        trial: A plan traces two steps and runs none: the first is computed, the second is reused if any step will be.
    """

    transformer: Any
    family: Family
    steps: int
    active: Callable[[str], Sequence[int]]
    distances: Distances | None = None
    trial: bool = False


def expected(active: Sequence[int], index: int, steps: int) -> Sequence[int]:
    """The steps at which a branch that comes at `index` will run, as far as it is known.

    Args:
        active: The component's steps at which it should run. Earlier ones passed without this gate.
        index: The first step at which it does.
        steps: Number of steps of the component.
    """
    # A scale that changes within the loop brings in branches that were not expected.
    return [step for step in active if step >= index] if index in active else range(index, steps)
