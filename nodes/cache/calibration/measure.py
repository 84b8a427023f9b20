"""Measure how a model changes from step to step, for `sgd calibrate`. Every step is computed.

For each clip and guidance branch, from its step before to this one: the relative L1 change of each signal that gates
compare, of the blocks' residual (`residual`) and of the model's prediction (`output`); and the ratio of MagCache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..engine.decide import Decider
from ..engine.engine import Gated
from ..engine.gated_component import Call, Distances
from ..engine.kept_rows import own
from ..engine.predictors import Taylor
from ..engine.row_cache import RowCache
from ..engine.signals import relative_change
from ..gate import Gate

if TYPE_CHECKING:
    from ...families.base import DenoiserInput, Family
    from ..loop_turn import Turn

WATCH = Gate("measure", signal="modulated", rule="change", threshold=0.0)
"""A gate that reads the modulated input and computes every step. A threshold of 0 compares nothing."""


@dataclass
class Seen:
    """A step of a clip in a branch, for the next one to be compared with; tensors are [1, ...], without padding."""

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
        self.family, self.component, self.steps, self.distances = family, component, steps, distances
        self.gated = Gated(transformer, family, WATCH)
        self.seen: dict[tuple[str, int], Seen] = {}
        self.measured: list[tuple[str, dict[str, float]]] = []

    def evaluate(self, names: Sequence[str], index: int, given: DenoiserInput, call: Call) -> torch.Tensor:
        """The predictions of guidance branches, measured clip by clip.

        Args:
            names: The branches of the batch, each with as many clips, one after the other.
            index: The step, counted over those of the component.
            given: The input of the batch.
            call: Calls the transformer that it is given.
        """
        caches = [RowCache(Decider(WATCH, self.steps), None, Taylor(0), Taylor(0)) for _ in given.latents]
        self.gated.use([[cache] for cache in caches], index, self.family.row_tokens(given))
        made = call(self.gated, given)
        clips = len(caches) // len(names)
        self.measured = []
        for row, cache in enumerate(caches):
            assert cache.compared is not None, "every step is computed and its signal looked at"
            key = names[row // clips], row % clips
            now = Seen(index, cache.compared.own, cache.hidden.derivatives[0].own, own(made, row, None))
            before = self.seen.get(key)
            self.measured.append((key[0], {} if before is None else self._compare(before, now)))
            self.seen[key] = now
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

    def report(self, branches: Sequence[str]) -> None:
        """Report the measurements of each clip in each branch to the observers."""
        for name, values in self.engine.measured:
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
