"""The memory of one row of a batch, for one stack of blocks, and the decisions of all rows at a step.

A row is one clip in one guidance branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .decide import Decider, Decision
from .kept_rows import KeptRow
from .predictors import Taylor
from .signals import Drift, numbers

if TYPE_CHECKING:
    import torch


@dataclass
class RowCache:
    """Everything that a row keeps from step to step, for one stack.

    Attributes:
        decider: Rules and limits.
        known: Decisions by step, where they are known ahead.
        hidden: Predicts the residual of the reused blocks in the hidden states.
        text: The same for the stream of text, where something after them reads it.
        drift: The change of the model's output, for gates that compare the model's input.
        predictions: The latest predictions [1, ...] of computed steps, newest first, for gates that combine them.
        compared: The signal that the next one is compared with.
        taken: Decisions of the run, by step.
        latest: The last computed step, -1 before there is one.
        length: The row's number of tokens without padding at the last step that was remembered. Where several processes
            compute a sequence, it is that of all parts.
    """

    decider: Decider
    known: Mapping[int, Decision] | None
    hidden: Taylor
    text: Taylor
    drift: Drift = field(default_factory=Drift)
    predictions: tuple[torch.Tensor, ...] = ()
    compared: KeptRow | None = None
    taken: dict[int, Decision] = field(default_factory=dict)
    latest: int = -1
    length: int | None = None

    def forced(self, index: int, length: int | None = None) -> Decision | None:
        """The decision that needs no signal; None if the rule decides.

        Args:
            index: The step.
            length: The row's number of tokens without padding.
        """
        if self.length != length and self.hidden.derivatives:
            return Decision(True, "first")  # the row has another size from this step on
        if self.known is None:
            return self.decider.forced(index)
        decision = self.known.get(index)
        # If other branches run than were expected, a step that was to be computed may have been passed over. The
        # residual is then missing, or older than that step.
        kept = self.latest >= 0 and self.hidden.step == self.latest
        if decision is None or not (decision.computed or kept):
            return Decision(True, "unforeseen")
        return decision

    def take(self, index: int, decision: Decision) -> None:
        """Record the decision of a step."""
        self.decider.follow(index, decision)
        self.taken[index] = decision
        if decision.computed:
            self.latest = index

    def remembers(self, index: int) -> bool:
        """Whether a later step may need the result of this one."""
        if self.known is None:
            return True
        later = [decision.computed for i, decision in self.known.items() if i > index]
        # A residual that is used as it is serves the very next step or none; an expansion builds on earlier ones.
        return not all(later[:1] if self.hidden.order == 0 else later)


def decide(
    caches: Sequence[RowCache],
    index: int,
    lengths: Sequence[int | None],
    change: Callable[[int], torch.Tensor | None],
    agreed: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]] = list,
) -> list[int]:
    """Decide about every row at a step. The host waits for the device once, or not at all.

    Args:
        caches: The memory of each row.
        index: The step.
        lengths: The rows' numbers of tokens without padding.
        change: The relative change of the signal of a row, 0-dimensional; None if there is nothing to compare it with.
        agreed: Gives the changes as all processes of a sequence have them.

    Returns:
        The numbers of the rows that are computed, ascending.
    """
    decisions: list[Decision] = []
    changes: dict[int, torch.Tensor] = {}
    for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
        forced = cache.forced(index, length)
        measured = change(row) if forced is None else None
        if measured is not None:
            changes[row] = measured
        decisions.append(forced or Decision(True, "first"))
    for (row, _), distance in zip(changes.items(), numbers(agreed(list(changes.values()))), strict=True):
        decisions[row] = caches[row].decider.judge(index, distance)
    for cache, decision in zip(caches, decisions, strict=True):
        cache.take(index, decision)
    return [row for row, decision in enumerate(decisions) if decision.computed]
