"""Decide for each step whether blocks are computed or reused: rules and limits without tensors. Torch-free.

Order: nothing to reuse yet → warm-up → last step → mask → most reused → longest run → accumulated → rule. The order is
that of DBCache in the cache-dit package (caching/cache_contexts/cache_manager.py, `can_cache`). A static mask decides
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

from ..gate import Gate
from ..masks import mask_of
from .gated_component import GatedComponent

ALWAYS = 1.0
"""With a threshold of at least this number, the rule `change` compares nothing and reuses, as in cache-dit."""


@dataclass(frozen=True)
class Decision:
    """The decision about one step, with its reason.

    Attributes:
        computed: True if the blocks are computed, False if they are reused.
        reason: `first`, `warm-up`, `last`, `mask`, `most reused`, `longest run`, `accumulated`, or `rule`; `unforeseen`
            if the decisions known before the run do not apply, because the branch ran at other steps.
        distance: The signal's relative change; None if it was not measured.
        value: The number that was compared with the threshold; None if nothing was compared.
    """

    computed: bool
    reason: str
    distance: float | None = None
    value: float | None = None


@cache
def _settled(computed: bool, reason: str) -> Decision:
    """A decision without a measure. Long schedules have many, and few that differ."""
    return Decision(computed, reason)


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """The polynomial at x, highest order first."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


class Decider:
    """Decides for one clip in one guidance branch (and one stack of blocks) over the steps of one component.

    Args:
        gate: A resolved gate.
        steps: Number of steps of the component; masks and limits are over these.
        branch: Name of the branch, for tables that have one per branch.
    """

    def __init__(self, gate: Gate, steps: int, branch: str = "positive") -> None:
        self.gate, self.steps = gate, steps
        self.mask = mask_of(gate.mask, steps) if gate.mask is not None else None
        self.dynamic = gate.mask is not None and gate.mask.policy == "dynamic"
        self.ratios = table_of(gate, branch)
        self.seen = -1
        self.history = False
        self.run = self.reused = 0
        self.measured = self.accumulated = 0.0
        self.ratio = 1.0
        self.warm = self._warm()

    def _warm(self) -> set[int]:
        limits = self.gate.limits
        steps = limits.warmup_steps
        if self.mask is not None and self.gate.mask is not None and self.gate.mask.every is None:
            # The mask takes over from its first 0, as in cache-dit.
            steps = min(steps, (self.mask + "0").index("0"))
        share = range(int(limits.warmup_share * self.steps))
        return {*range(0, min(steps, self.steps), limits.warmup_interval), *share, *limits.always}

    def forced(self, index: int) -> Decision | None:
        """The decision that needs no signal; None if the rule decides."""
        limits, gate = self.gate.limits, self.gate
        if not self.history:
            return _settled(True, "first")
        if index in self.warm:
            return _settled(True, "warm-up")
        if limits.last and index == self.steps - 1:
            return _settled(True, "last")
        if self.mask is not None:
            if self.mask[index] == "1":
                return _settled(True, "mask")
            if not self.dynamic:
                return _settled(False, "mask")
        if limits.max_reused is not None and self.reused >= limits.max_reused:
            return _settled(True, "most reused")
        if limits.max_consecutive is not None and self.run >= limits.max_consecutive:
            return _settled(True, "longest run")
        if limits.max_accumulated is not None and self.measured >= limits.max_accumulated:
            return _settled(True, "accumulated")
        if gate.off:
            return _settled(True, "rule")
        if gate.rule == "change" and gate.threshold is not None and gate.threshold >= ALWAYS:
            return _settled(False, "rule")
        return None

    def judge(self, index: int, distance: float | None) -> Decision:
        """Decide by the rule, for a relative change of the signal. The blocks are computed if the change is NaN."""
        gate, threshold = self.gate, self.gate.threshold
        assert threshold is not None, "a rule other than a mask has a threshold"
        if distance is not None and distance > 0:
            self.measured += distance
        if gate.rule == "change":
            assert distance is not None, "this rule measures"
            return Decision(not distance < threshold, "rule", distance, distance)
        if gate.rule == "magnitude":
            assert self.ratios is not None, "this rule has a table"
            for skipped in range(self.seen + 1, index + 1):
                self.ratio *= self.ratios[skipped]
            self.accumulated += abs(1.0 - self.ratio)
            return Decision(not self.accumulated <= threshold, "rule", None, self.accumulated)
        assert distance is not None, "this rule measures"
        assert gate.coefficients is not None, "this rule has a polynomial"
        change = polynomial(gate.coefficients, distance)
        self.accumulated += max(change, 0.0) if gate.clamp else change
        return Decision(not self.accumulated < threshold, "rule", distance, self.accumulated)

    def follow(self, index: int, decision: Decision) -> None:
        """Record the decision of a step."""
        self.seen = index
        if decision.computed:
            self.history, self.run = True, 0
            self.accumulated, self.ratio = 0.0, 1.0
        else:
            self.run += 1
            self.reused += 1


def table_of(gate: Gate, branch: str) -> tuple[float, ...] | None:
    """The ratios of a branch; those of the positive one where the table has one for all."""
    if gate.ratios is None:
        return None
    return gate.ratios.get(branch, gate.ratios.get("positive"))


def known_ahead(gate: Gate) -> bool:
    """Whether every decision follows from the schedule alone."""
    if gate.rule == "mask" or gate.off or gate.signal in ("time", "time_projection"):
        return True
    if gate.rule == "magnitude":
        return True
    threshold = gate.threshold
    return gate.rule == "change" and threshold is not None and not 0 < threshold < ALWAYS


def schedule(
    gate: Gate, steps: int, branch: str, indices: Sequence[int], distance: Callable[[int, int], float] | None = None
) -> dict[int, Decision]:
    """Compute all decisions of a gate whose decisions are known before the run.

    Args:
        gate: A resolved gate.
        steps: Number of steps of the component.
        branch: Name of the branch.
        indices: The steps at which the branch runs, in order.
        distance: Gives the signal's relative change from one step to another; None if the rule needs no signal.
    """
    decider, decisions = Decider(gate, steps, branch), {}
    for index in indices:
        decision = decider.forced(index)
        if decision is None:
            decision = decider.judge(index, distance(decider.seen, index) if distance is not None else None)
        decider.follow(index, decision)
        decisions[index] = decision
    return decisions


def outlook(gate: Gate, steps: int, branch: str, indices: Sequence[int]) -> str:
    """The steps of a gate with a signal, as known ahead: 1 for computed, 0 for reused, ? for decided then."""
    decider = Decider(gate, steps, branch)
    # A limit on runs depends on earlier decisions, so only these steps are certain: the first, the warm-up, the last,
    # and those of a mask, whose zeros are certain unless the mask is dynamic.
    computed = decider.warm | ({steps - 1} if gate.limits.last else set())
    mask, zero = decider.mask or "?" * steps, "?" if decider.dynamic else "0"
    digits = ["1" if index in computed or mask[index] == "1" else mask[index] for index in indices]
    text = "".join(digits).replace("0", zero)
    return f"1{text[1:]}" if text else ""


class KnownDecisions:
    """The decisions of one branch that are known before the run.

    Args:
        gate: A resolved gate.
        component: The component that the gate controls.
        branch: Name of the branch.
        indices: The steps at which the branch runs.
    """

    def __init__(self, gate: Gate, component: GatedComponent, branch: str, indices: Sequence[int]) -> None:
        self.gate, self.component, self.branch, self.indices = gate, component, branch, indices

    def by_step(self) -> dict[int, Decision] | None:
        """The decisions by step; None if they are made in the run."""
        if self.component.trial:
            first, later = Decision(True, "trial"), Decision("0" not in self.digits, "trial")
            return dict.fromkeys(self.indices, later) | {self.indices[0]: first}
        return self._schedule

    @cached_property
    def digits(self) -> str:
        """One digit for each step of the branch: 1 for computed, 0 for reused, ? for decided then."""
        known = self._schedule
        if known is None:
            return outlook(self.gate, self.component.steps, self.branch, self.indices)
        return "".join(str(int(decision.computed)) for decision in known.values())

    @cached_property
    def _schedule(self) -> dict[int, Decision] | None:
        steps, indices = self.component.steps, self.indices
        if not known_ahead(self.gate):
            return None
        if self.gate.signal not in ("time", "time_projection"):
            return schedule(self.gate, steps, self.branch, indices)
        if self.component.distances is None:
            return None
        pairs = list(pairwise(indices))
        found = dict(zip(pairs, self.component.distances(pairs), strict=True))
        return schedule(self.gate, steps, self.branch, indices, lambda before, now: found[before, now])
