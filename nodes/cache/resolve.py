"""From a gate as it was written to a gate for one model and number of steps; or why there is none. Torch-free.

The same code runs in `sgd check`, on descriptions, and before the first step of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

from ..families.base import Family
from . import coefficients, ratios
from .fill import UNKNOWN, Use, filled
from .gate import SIGNALS, Gate
from .known import S, by_size
from .masks import mask_of
from .table import TableProblem

FEW_BLOCKS = 16
FRONT, FRONT_OF_FEW = 8, 1  # 8 is `Fn_compute_blocks` of cache-dit's DBCacheConfig
THRESHOLDS = ("change", "polynomial", "magnitude")


class GateProblem(Exception):
    """Why a gate cannot work: a diagnostic's code, a sentence for the user, and what to do."""

    def __init__(self, code: Literal["bad-value", "unsupported"], message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.help = code, help


@dataclass(frozen=True)
class Place:
    """What a gate needs to know of where it works.

    Attributes:
        family: The model's family.
        configs: Configurations of its components; may be incomplete before they are at hand.
        source: The model's repository or folder, None if it is not known.
        steps: Number of steps of the component, None if it is not known.
        component: The component's name in the repository.
        size: Width and height of what is made, in pixels; None if they are not known.
        image: Whether the model is given an image.
        use: What a table is compared with.
        group: Blocks that are brought to the device together, where the component is offloaded; 1 if that is not known.
    """

    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    source: str | None = None
    steps: int | None = None
    component: str = "transformer"
    size: tuple[int, int] | None = None
    image: bool = False
    use: Use = UNKNOWN
    group: int = 1

    @property
    def identified(self) -> bool:
        """Whether enough is known of the model to say that nothing was published for it."""
        return "transformer" in self.configs

    def sized(self, entries: tuple[S, ...]) -> tuple[S, ...]:
        """Of what was published for several sizes, that for the nearest."""
        return entries if self.size is None else by_size(entries, *self.size)

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Blocks in each of the transformer's lists; None if its configuration is not known."""
        config = self.configs.get("transformer", {})
        keys = self.family.blocks.lists.values()
        return tuple(config[key] for key in keys) if all(key in config for key in keys) else None


def resolve(gate: Gate, place: Place) -> Gate:
    """The gate with everything filled in that is known of its place.

    Raises:
        GateProblem: If it cannot work there.
    """
    if not gate.active:
        return gate
    if gate.kind == "library":
        from .library_options import settled

        return settled(gate, place)
    if gate.signal == "auto":
        gate = replace(gate, signal="time" if place.family.time_modules else "modulated")
    _signal(gate, place)
    gate = _spans(gate, place)
    # A rule that reuses nothing need know nothing of the model, so that any model can be run without a gate.
    gate = replace(gate, signal="none", table=None) if gate.off else _published(gate, place)
    if gate.rule in THRESHOLDS and gate.threshold is None:
        raise GateProblem("bad-value", f"{gate.kind} has no threshold for this model", "set `threshold`")
    if gate.mask is not None and place.steps is not None:
        try:
            mask = mask_of(gate.mask, place.steps)
        except ValueError as error:
            raise GateProblem("bad-value", str(error), "give bins or a mask for the number of steps") from error
        if mask[:1] == "0":
            raise GateProblem("bad-value", "the mask reuses the first step, and there is nothing to reuse yet")
    return gate


def _signal(gate: Gate, place: Place) -> None:
    family = place.family
    if gate.signal in ("time", "time_projection") and not family.time_modules:
        message = f"models of {family.name} have no embedding of the timestep alone to compare"
        raise GateProblem("unsupported", message, "set `signal: modulated`, with coefficients of your own")
    needs = gate.rule in ("change", "polynomial")
    if needs and gate.signal == "none":
        raise GateProblem("bad-value", f"the rule `{gate.rule}` compares a signal", _signals())
    if not needs and gate.signal not in ("none", "model") and (gate.mask is None or gate.mask.policy == "static"):
        raise GateProblem("bad-value", f"the rule `{gate.rule}` compares no signal", "leave `signal` out")
    if gate.signal == "front" and gate.front == 0:
        raise GateProblem("bad-value", "the signal `front` is what the first blocks add", "set `front_blocks`")
    if gate.signal == "model" and (gate.front or gate.back):
        raise GateProblem("bad-value", "with the signal `model` no block runs when a step is reused")
    if gate.stacks == "separate" and (len(family.blocks.lists) == 1 or gate.signal == "model"):
        raise GateProblem("unsupported", f"models of {family.name} have one list of blocks", "leave `stacks` out")
    if gate.stacks == "separate" and gate.signal == "modulated":
        message = "the signal `modulated` is that of the first list of blocks, and decides for all of them"
        raise GateProblem("unsupported", message, "leave `stacks` out, or compare what the first blocks add: `front`")


def _signals() -> str:
    return "set `signal`: " + "; ".join(f"`{name}`, {about}" for name, about in SIGNALS.items() if name != "none")


def _spans(gate: Gate, place: Place) -> Gate:
    """Fill in the number of first blocks, and see that something is left between first and last."""
    counts = place.counts
    if counts is None:
        return gate
    groups = counts if gate.stacks == "separate" else (sum(counts),)
    front = gate.front
    if front is None:
        front = FRONT if min(groups) >= FEW_BLOCKS else FRONT_OF_FEW
    for blocks in groups:
        if front + gate.back >= blocks:
            message = f"{front} first and {gate.back} last blocks are always computed, and there are {blocks}"
            raise GateProblem("bad-value", message, "leave some between them: lower front_blocks or back_blocks")
    whole_groups(counts, front, gate.back, gate.stacks == "separate", place.group)
    return replace(gate, front=front)


def whole_groups(counts: Sequence[int], front: int, back: int, separate: bool, group: int) -> None:
    """See that no group of an offloaded model is parted: its first block brings it in, and its last lets it go.

    Args:
        counts: Blocks in each of the transformer's lists.
        front: First blocks that are always computed.
        back: Last ones.
        separate: Of each list, and not of all together.
        group: Blocks of a group; no group reaches over the end of a list.

    Raises:
        GateProblem: If there is one of which a part may be passed over.
    """
    begins = list(accumulate(counts, initial=0))
    spans = list(pairwise(begins)) if separate else [(0, begins[-1])]
    edges = {edge for first, last in spans for edge in (first + front, last - back)} - set(begins)
    for edge in edges:
        within = edge - max(begin for begin in begins if begin < edge)
        if within % group:
            message = (
                f"blocks are offloaded {group} at a time, and a group would be parted: {front} first and {back} last "
                "blocks run where the others do not"
            )
            help = "set `blocks: 1` of model.offload, or numbers of first and last blocks that leave groups whole"
            raise GateProblem("unsupported", message, help)


def _published(gate: Gate, place: Place) -> Gate:
    """Fill in coefficients and ratios of a table, or those that were published for the model."""
    if gate.table is not None:
        try:
            return filled(gate, place.use)
        except TableProblem as problem:
            raise GateProblem("bad-value", str(problem), problem.help) from problem
    if gate.rule == "polynomial" and gate.coefficients is None:
        return _polynomial(gate, place)
    if gate.rule == "magnitude" and gate.ratios is None:
        return _ratios(gate, place)
    if gate.ratios is not None and place.steps is not None:
        lengths = {len(ratios) for ratios in gate.ratios.values()}
        if lengths != {place.steps}:
            message = f"there are {max(lengths)} ratios, and the loop takes {place.steps} steps"
            raise GateProblem("bad-value", message, "give one for each step")
    return gate


def _polynomial(gate: Gate, place: Place) -> Gate:
    entries = coefficients.published(place.family.name, place.configs, place.source)
    entry = next((e for e in place.sized(entries) if e.signal == gate.signal), None)
    if entry is None:
        if not place.identified:
            return gate
        message = f"no coefficients were published for this model and the signal {gate.signal}"
        help = "fit a `table` with `sgd calibrate`, or give `coefficients`; a threshold of 0 computes every step"
        raise GateProblem("unsupported", message, help)
    threshold = gate.threshold if gate.threshold is not None else entry.thresholds[0]
    return replace(gate, coefficients=entry.coefficients, threshold=threshold)


def _ratios(gate: Gate, place: Place) -> Gate:
    tables = place.sized(ratios.published(place.family.name, place.configs, place.source))
    table = next((t for t in tables if t.image in (None, place.image) and place.component in t.ratios), None)
    if table is None:
        if not place.identified:
            return gate
        message = "no ratios were published for this model"
        raise GateProblem(
            "unsupported",
            message,
            "measure a `table` with `sgd calibrate`, or give `ratios`; a threshold of 0 computes every step",
        )
    limits = gate.limits
    run = table.longest if limits.max_consecutive is None else limits.max_consecutive
    share = table.retention[place.component] if gate.options.get("retention") is None else limits.warmup_share
    gate = replace(
        gate,
        threshold=gate.threshold if gate.threshold is not None else table.threshold,
        limits=replace(limits, max_consecutive=run, warmup_share=share),
    )
    if place.steps is None:
        return gate
    branches = {branch: table.at(place.steps, place.component, branch) for branch in table.ratios[place.component]}
    return replace(gate, ratios=branches, limits=replace(gate.limits, always=table.forced(place.steps)))
