"""The memory of one guidance branch, for one stack of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .decide import Decider, Decision
from .predictors import Taylor

if TYPE_CHECKING:
    import torch


@dataclass
class BranchCache:
    """Everything that a guidance branch keeps from step to step, for one stack.

    Attributes:
        decider: Decides by the gate's rule and limits.
        known: Decisions by step if they are known before the run, else None.
        hidden: Predicts the residual of the reused blocks in the hidden states.
        text: Predicts the residual of the reused blocks in the text stream, if a later block reads that stream.
        compared: The signal with which the next step's signal is compared.
        taken: Decisions of the run, by step.
        latest: The last computed step, -1 before there is one.
    """

    decider: Decider
    known: Mapping[int, Decision] | None
    hidden: Taylor
    text: Taylor
    compared: torch.Tensor | None = None
    taken: dict[int, Decision] = field(default_factory=dict)
    latest: int = -1

    def forced(self, index: int) -> Decision | None:
        """The decision that needs no signal; None if the rule decides."""
        if self.known is None:
            return self.decider.forced(index)
        decision = self.known.get(index)
        # If other branches run than expected, a step that was to be computed may have been skipped. The residual is
        # then missing, or older than that step.
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
        # Without an expansion, the residual of a step can only serve the next step. An expansion uses earlier residuals
        # too.
        return not all(later[:1] if self.hidden.order == 0 else later)
