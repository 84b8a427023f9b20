"""A gate at work on one component, for one run of a loop: which branch, which step, what was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...families.base import Family
from ..gate import Gate
from .decide import Decider, Decision, known_ahead, outlook, schedule
from .predictors import Taylor
from .signals import Drift
from .stack import Gated, Track

if TYPE_CHECKING:
    import torch

Distances = Callable[[Sequence[tuple[int, int]]], list[float]]


def expected(active: Sequence[int], index: int, steps: int) -> Sequence[int]:
    """The steps at which a branch that comes at `index` will run, as far as can be told.

    Args:
        active: The component's steps at which it should run. Earlier ones passed without this gate.
        index: The first step at which it does.
        steps: Number of steps of the component.
    """
    # Who changes the scale within the loop brings in branches that were not to be expected.
    return [step for step in active if step >= index] if index in active else range(index, steps)


class Engine:
    """Computes or reuses, per guidance branch.

    Args:
        gate: A resolved gate.
        transformer: The component; left as it is between calls.
        family: How it is called.
        steps: Number of steps of the component.
        active: The component's steps at which a branch runs, by name.
        distances: The signal's changes between pairs of steps, for signals that are known ahead.
        trial: Two steps are traced and not run: the first is computed, the second reused if any step will be.
    """

    def __init__(
        self,
        gate: Gate,
        transformer: Any,
        family: Family,
        steps: int,
        active: Callable[[str], Sequence[int]],
        distances: Distances | None,
        trial: bool = False,
    ) -> None:
        self.gate, self.transformer, self.steps, self.active = gate, transformer, steps, active
        self.distances, self.trial, self.sign = distances, trial, family.sign
        self.gated = Gated(transformer, family, gate) if gate.signal != "model" else None
        self.tracks: dict[str, list[Track]] = {}
        self.indices: dict[str, Sequence[int]] = {}
        self.drifts: dict[str, Drift] = {}

    def evaluate(self, branch: str, index: int, given: torch.Tensor, call: Callable[[Any], torch.Tensor]) -> Any:
        """The prediction of a branch at a step.

        Args:
            branch: Its name, or names joined by +.
            index: The step, counted over those of the component.
            given: The latents that are given to the transformer.
            call: Calls the transformer that it is given.
        """
        tracks = self.tracks.get(branch)
        if tracks is None:
            self.indices[branch] = expected(self.active(branch), index, self.steps)
            tracks = self.tracks[branch] = self._tracks(branch)
        if self.gated is not None:
            self.gated.use(tracks, index)
            return call(self.gated)
        return self._whole(self.drifts.setdefault(branch, Drift()), tracks[0], index, given, call)

    def _whole(
        self, drift: Drift, track: Track, index: int, given: torch.Tensor, call: Callable[[Any], torch.Tensor]
    ) -> torch.Tensor:
        """The whole transformer computed or not; what it adds to its input stands in for it."""
        decision = track.forced(index)
        change = drift.measure(given) if track.known is None else None
        if decision is None and change is None:
            decision = Decision(True, "first")
        if decision is None:
            assert change is not None, "measured above"
            decision = track.decider.judge(index, change.item())
        drift.passed(given)
        track.take(index, decision)
        if not decision.computed:
            assert track.compared is not None, "a step was computed before"
            return (self.sign * given + track.hidden.predict(index)).to(track.compared.dtype)
        made = call(self.transformer)
        track.compared = made
        if track.known is None:
            drift.learned(given, made)
        track.hidden.update(index, made - self.sign * given)
        return made

    def _tracks(self, branch: str) -> list[Track]:
        known = self._known(branch)
        count = len(self.gated.stacks) if self.gated is not None else 1
        order = self.gate.order
        return [
            Track(Decider(self.gate, self.steps, branch), known, Taylor(order), Taylor(order)) for _ in range(count)
        ]

    def _known(self, branch: str) -> dict[int, Decision] | None:
        """The decisions of a branch, where they are known ahead."""
        if self.trial:
            reuses = "0" in self.digits(branch)
            indices = self.indices[branch]
            return {index: Decision(index == indices[0] or not reuses, "trial") for index in indices}
        return self._schedule(branch)

    def _schedule(self, branch: str) -> dict[int, Decision] | None:
        active = self.indices[branch]
        if not known_ahead(self.gate):
            return None
        if self.gate.signal not in ("time", "time_projection"):
            return schedule(self.gate, self.steps, branch, active)
        if self.distances is None:
            return None
        pairs = list(pairwise(active))
        found = dict(zip(pairs, self.distances(pairs), strict=True))
        return schedule(self.gate, self.steps, branch, active, lambda before, now: found[before, now])

    def digits(self, branch: str) -> str:
        """What is known ahead, for each step of a branch: 1 for computed, 0 for reused, ? for decided then."""
        known = self._schedule(branch)
        if known is None:
            return outlook(self.gate, self.steps, branch, self.indices[branch])
        return "".join(str(int(decision.computed)) for decision in known.values())

    def decided(self, branch: str, index: int) -> Iterator[tuple[int, Decision]]:
        """The decisions of a branch at a step, with the number of the stack."""
        for number, track in enumerate(self.tracks.get(branch, [])):
            if index in track.taken:
                yield number, track.taken[index]

    def close(self) -> None:
        """Nothing is kept but by this object."""
