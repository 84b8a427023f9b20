"""Measure how a model changes from step to step, for `sgd calibrate`. Every step is computed.

A measurement compares a step of a guidance branch with the branch's step before. It holds the relative L1 change of
each signal that gates compare, of the blocks' residual (`residual`) and of the model's prediction (`output`), and the
ratio of MagCache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..engine.branch_cache import BranchCache
from ..engine.decide import Decider
from ..engine.engine import Gated
from ..engine.gated_component import Distances
from ..engine.predictors import Taylor
from ..engine.signals import relative_change
from ..gate import Gate

if TYPE_CHECKING:
    from ...families.base import Family
    from ..loop_turn import Turn

WATCH = Gate("measure", signal="modulated", rule="change", threshold=0.0)
"""A gate that reads the modulated input and computes every step. A threshold of 0 compares nothing."""


@dataclass
class Seen:
    """The tensors of one step of a branch, with which the next step is compared."""

    index: int
    signal: torch.Tensor
    residual: torch.Tensor
    output: torch.Tensor


class Meter:
    """Measures one component during one run of a loop.

    Args:
        transformer: The component. It is unchanged between calls.
        family: The model's family, which calls the transformer.
        component: Name of the component in the model's repository.
        steps: Number of steps of the component.
        distances: Changes of the signals that depend only on the schedule, by signal.
    """

    def __init__(
        self, transformer: Any, family: Family, component: str, steps: int, distances: Mapping[str, Distances]
    ) -> None:
        self.component, self.steps, self.distances = component, steps, distances
        self.gated = Gated(transformer, family, WATCH)
        self.seen: dict[str, Seen] = {}
        self.measured: dict[str, dict[str, float]] = {}

    def evaluate(self, branch: str, index: int, given: torch.Tensor, call: Callable[[Any], torch.Tensor]) -> Any:
        """Compute the prediction of a branch, or of several branches in one batch, and measure each branch.

        Args:
            branch: Name of the branch, or names joined by +.
            index: The step, counted among the steps of the component.
            given: The latents that go into the transformer.
            call: Function that calls the transformer in its argument.
        """
        cache = BranchCache(Decider(WATCH, self.steps), None, Taylor(0), Taylor(0))
        self.gated.use([cache], index)
        made = call(self.gated)
        assert cache.compared is not None, "every step is computed and its signal looked at"
        names, streams = branch.split("+"), (cache.compared, cache.hidden.predict(index), made)
        self.measured = {}
        for name, parts in zip(names, zip(*(stream.chunk(len(names)) for stream in streams), strict=True), strict=True):
            now = Seen(index, *parts)
            before = self.seen.get(name)
            self.measured[name] = {} if before is None else self._compare(before, now)
            self.seen[name] = now
        return made

    def _compare(self, before: Seen, now: Seen) -> dict[str, float]:
        found = {name: changes([(before.index, now.index)])[0] for name, changes in self.distances.items()}
        # The signal is compared in its own dtype, as in gates. Residual and output are compared in float32.
        found["modulated"] = relative_change(before.signal, now.signal).item()
        found["residual"] = relative_change(before.residual.float(), now.residual.float()).item()
        found["output"] = relative_change(before.output.float(), now.output.float()).item()
        found["ratio"] = ratio(before.residual, now.residual).item()
        return found


class Metered:
    """A meter at one step. It takes the place of a gate."""

    def __init__(self, meter: Meter, turn: Turn) -> None:
        self.engine, self.turn, self.index = meter, turn, turn.index

    def report(self, branch: str) -> None:
        """Report the measurements of a branch, or of several branches in one batch, to the observers."""
        for name, values in self.engine.measured.items():
            self.turn.run.event(
                "measurement",
                component=self.turn.component,
                branch=name,
                index=self.index,
                step=self.turn.step.index,
                values=values,
            )


def ratio(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """The ratio of the norms of two residuals [..., tokens, width]: the mean over tokens of |now| / |before|.

    This is MagCache's ratio (2506.09045). The denominator has the small constant of diffusers (hooks/mag_cache.py).
    """
    return (_size(now) / (_size(before) + 1e-8)).mean()


def _size(residual: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(residual.float(), dim=-1)
