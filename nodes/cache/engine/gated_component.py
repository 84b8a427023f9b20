"""`GatedComponent`: the transformer that a gate controls, in one run of a loop. Torch-free at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from ...families.base import DenoiserInput, Family

Call = Callable[[Any, "DenoiserInput"], "torch.Tensor"]
"""Calls a transformer: the component's own, or one with a gate before its blocks."""

Distances = Callable[[Sequence[tuple[int, int]]], list[float]]
"""Gives a signal's changes between pairs of steps, for signals that depend only on the schedule."""


class Parts(Protocol):
    """The parts of a sequence that several processes compute together."""

    def own(self, count: int) -> int:
        """How many of the first `count` tokens are in the part of this process."""

    def cut(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """This process's part of a whole tensor. `dim`: the dimension of tokens."""

    def relative_change(self, before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        """The relative change of the tokens of all parts, from those of this process; equal in all processes."""

    def agreed(self, numbers: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """0-dimensional numbers as one process has them, equal in all."""

    def around(
        self, transformer: Any, family: Family, inner: torch.nn.Module, lists: Sequence[Any], last: bool
    ) -> torch.nn.Module:
        """A module that computes `inner`, which stands for some lists of blocks, on the part of this process.

        Args:
            transformer: The transformer of the blocks.
            family: Its family.
            inner: Takes and returns what a block does.
            lists: The lists of blocks.
            last: Nothing reads the stream of text after them.
        """

    def others(self, transformer: Any, family: Family) -> Mapping[str, torch.nn.ModuleList]:
        """Modules in place of lists of blocks that no gate reaches."""


@dataclass(frozen=True)
class GatedComponent:
    """A component in one run of a loop.

    Attributes:
        transformer: The module. It is unchanged between calls.
        family: The model's family, which calls the transformer.
        steps: Number of steps of the component.
        active: For the name of a branch, the component's steps at which the branch runs.
        distances: The signal's changes between pairs of steps; None for signals that are not known before the run.
        trial: True in a plan, which traces two steps. The first is computed. The second is reused if the run will reuse
            any step.
        parts: The parts of the sequence; None if one process computes it.
    """

    transformer: Any
    family: Family
    steps: int
    active: Callable[[str], Sequence[int]]
    distances: Distances | None = None
    trial: bool = False
    parts: Parts | None = None


def expected(active: Sequence[int], index: int, steps: int) -> Sequence[int]:
    """The steps at which a branch will run that first runs at `index`, as far as they are known.

    Args:
        active: The component's steps at which the branch should run. Steps before `index` passed without this gate.
        index: The first step at which the branch runs.
        steps: Number of steps of the component.
    """
    # If the guidance scale changes within the loop, branches run that were not expected.
    return [step for step in active if step >= index] if index in active else range(index, steps)
