"""Turn a gate of the workflow into a gate for one model and number of steps, or report why it cannot work. Torch-free.

The same code runs in `sgd check`, on descriptions, and before the first step of a run."""

from __future__ import annotations

from dataclasses import replace

from ...graph.contract.errors import NodeError
from .calibration.filled_gate import filled
from .gate import SIGNALS, Gate
from .gate_place import Place, whole_groups
from .masks import mask_of
from .published import magcache_ratios, teacache_coefficients
from .tuning.planned_gate import planned
from .tuning.tuned_table import KIND

FEW_BLOCKS = 16
FRONT, FRONT_OF_FEW = 8, 1  # 8 is `Fn_compute_blocks` of cache-dit's DBCacheConfig
THRESHOLDS = ("change", "polynomial", "magnitude")


def resolve(gate: Gate, place: Place) -> Gate:
    """Fill in the gate's values for its model and number of steps, as far as these are known.

    Raises:
        NodeError: If the gate cannot work with this model or number of steps.
    """
    if not gate.active:
        return gate
    if gate.kind == "library":
        from .cache_dit.engine_options import settled

        return settled(gate, place)
    if gate.signal == "auto":
        gate = replace(gate, signal="time" if place.family.time_modules else "modulated")
    _signal(gate, place)
    gate = _spans(gate, place)
    # A rule that reuses nothing needs no facts about the model, so it works with every model.
    gate = replace(gate, signal="none", table=None) if gate.off else _published(gate, place)
    if gate.rule in THRESHOLDS and gate.threshold is None:
        raise NodeError(f"{gate.kind} has no threshold for this model", help="set `threshold`")
    if gate.mask is not None and place.steps is not None:
        try:
            mask = mask_of(gate.mask, place.steps)
        except ValueError as error:
            raise NodeError(str(error), help="give bins or a mask for the number of steps") from error
        if mask[:1] == "0":
            raise NodeError("the mask reuses the first step, and there is nothing to reuse yet")
    return gate


def _signal(gate: Gate, place: Place) -> None:
    family = place.family
    if gate.signal in ("time", "time_projection") and not family.time_modules:
        message = f"models of {family.name} have no embedding that depends on the timestep alone"
        raise NodeError(message, help="set `signal: modulated`, with coefficients of your own", code="unsupported")
    needs = gate.rule in ("change", "polynomial")
    if needs and gate.signal == "none":
        raise NodeError(f"the rule `{gate.rule}` needs a signal to compare", help=_signals())
    if not needs and gate.signal not in ("none", "model") and (gate.mask is None or gate.mask.policy == "static"):
        raise NodeError(f"the rule `{gate.rule}` compares no signal", help="leave `signal` out")
    if gate.signal == "front" and gate.front == 0:
        raise NodeError("the signal `front` is the residual of the first blocks", help="set `front_blocks`")
    if gate.signal == "model" and (gate.front or gate.back):
        raise NodeError("with the signal `model` no block runs when a step is reused")
    if gate.stacks == "separate" and (len(family.blocks.lists) == 1 or gate.signal == "model"):
        raise NodeError(
            f"models of {family.name} have one list of blocks", help="leave `stacks` out", code="unsupported"
        )
    if gate.stacks == "separate" and gate.signal == "modulated":
        message = "the signal `modulated` comes from the first list of blocks, and decides for all lists"
        raise NodeError(
            message, help="leave `stacks` out, or compare the residual of the first blocks: `front`", code="unsupported"
        )


def _signals() -> str:
    return "set `signal`: " + "; ".join(f"`{name}`, {about}" for name, about in SIGNALS.items() if name != "none")


def _spans(gate: Gate, place: Place) -> Gate:
    """Fill in the number of first blocks. Check that at least one block lies between the first and the last blocks."""
    counts = place.counts
    if counts is None:
        return gate
    groups = counts if gate.stacks == "separate" else (sum(counts),)
    front = gate.front
    if front is None:
        front = FRONT if min(groups) >= FEW_BLOCKS else FRONT_OF_FEW
    for blocks in groups:
        if front + gate.back >= blocks:
            message = f"{front} first and {gate.back} last blocks are always computed, but there are {blocks} blocks"
            raise NodeError(message, help="leave some between them: lower front_blocks or back_blocks")
    whole_groups(counts, front, gate.back, gate.stacks == "separate", place.group)
    return replace(gate, front=front)


def _published(gate: Gate, place: Place) -> Gate:
    """Fill in the coefficients or ratios of the gate's table, or those that were published for the model."""
    if gate.table is not None:
        return planned(gate, place.use) if gate.kind == KIND else filled(gate, place.use)
    if gate.rule == "polynomial" and gate.coefficients is None:
        return _polynomial(gate, place)
    if gate.rule == "magnitude" and gate.ratios is None:
        return _ratios(gate, place)
    if gate.ratios is not None and place.steps is not None:
        lengths = {len(ratios) for ratios in gate.ratios.values()}
        if lengths != {place.steps}:
            message = f"there are {max(lengths)} ratios, and the loop takes {place.steps} steps"
            raise NodeError(message, help="give one ratio for each step")
    return gate


def _polynomial(gate: Gate, place: Place) -> Gate:
    entries = teacache_coefficients.published(place.family.name, place.configs, place.source)
    entry = next((e for e in place.sized(entries) if e.signal == gate.signal), None)
    if entry is None:
        if not place.identified:
            return gate
        message = f"no coefficients were published for this model and the signal {gate.signal}"
        help = "fit a `table` with `sgd calibrate`, or give `coefficients`; a threshold of 0 computes every step"
        raise NodeError(message, help=help, code="unsupported")
    threshold = gate.threshold if gate.threshold is not None else entry.thresholds[0]
    return replace(gate, coefficients=entry.coefficients, threshold=threshold)


def _ratios(gate: Gate, place: Place) -> Gate:
    tables = place.sized(magcache_ratios.published(place.family.name, place.configs, place.source))
    table = next((t for t in tables if t.image in (None, place.image) and place.component in t.ratios), None)
    if table is None:
        if not place.identified:
            return gate
        message = "no ratios were published for this model"
        raise NodeError(
            message,
            help="measure a `table` with `sgd calibrate`, or give `ratios`; a threshold of 0 computes every step",
            code="unsupported",
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
