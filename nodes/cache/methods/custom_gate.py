"""`cache.gate`: the five choices that every gate is made of, directly."""

from __future__ import annotations

from typing import Literal

from ..gate import Gate, Limits, Policy, Preset
from .gate_node import gate_node
from .parameters import (
    Count,
    Order,
    Positive,
    Ratio,
    Share,
    Stacks,
    Threshold,
    bad_value,
    mask_from,
    numbers,
)


@gate_node("cache.gate")
def gate(
    *,
    signal: Literal["none", "time", "time_projection", "modulated", "front", "model"] = "none",
    rule: Literal["mask", "change", "polynomial", "magnitude"],
    threshold: Threshold | None = None,
    coefficients: list[float] | None = None,
    clamp: bool = False,
    ratios: list[Ratio] | None = None,
    order: Order = 0,
    front_blocks: Count = 0,
    back_blocks: Count = 0,
    stacks: Stacks = "together",
    warmup_steps: Count = 0,
    warmup_interval: Positive = 1,
    warmup_share: Share = 0.0,
    max_consecutive: Count | None = None,
    max_reused: Count | None = None,
    max_accumulated: Threshold | None = None,
    last: bool = False,
    preset: Preset | None = None,
    compute_bins: list[int] | None = None,
    reuse_bins: list[int] | None = None,
    mask: str | None = None,
    policy: Policy | None = None,
) -> Gate:
    """A gate from its parts, for combinations that no other gate has.

    Args:
        signal: The tensor that is compared between steps. `time`: the embedding of the timestep (Wan),
            `time_projection` its projection. `modulated`: the first block's input, normed and modulated. `front`: the
            residual of the first blocks, compared with the last computed step. `model`: the model's input and output,
            as in `cache.easycache`.
        rule: When to reuse. `mask`: as the mask says. `change`: the signal has changed by less than the threshold.
            `polynomial`: a polynomial of its changes adds up to less. `magnitude`: so does the
            error that `ratios` predict.
        threshold: For the rules other than `mask`.
        coefficients: For `polynomial`, highest order first; [1, 0] adds up the changes themselves.
        clamp: A polynomial below 0 counts as 0.
        ratios: For `magnitude`: the size of the residual over that of the step before, for each step.
        order: Order of the Taylor expansion of the reused residual; 0 takes the last residual unchanged.
        front_blocks: First blocks that always run.
        back_blocks: Last blocks that always run.
        stacks: A model with two lists of blocks decides once, or `separate`ly for each.
        warmup_steps: First steps that are computed.
        warmup_interval: Of these, every n-th is.
        warmup_share: Share of first steps that are computed.
        max_consecutive: Longest run of reused steps.
        max_reused: Most reused steps.
        max_accumulated: Compute everything once the measured changes have added up to this.
        last: Compute the last step.
        preset: Which steps may be reused, as in `cache.scm`.
        compute_bins: The same as lengths of runs of computed steps.
        reuse_bins: Lengths of the runs of steps between them.
        mask: The same as digits, 1 to compute and 0 to reuse, one for each step.
        policy: At a 0 of the mask, `dynamic` reuses if the rule agrees, `static` always. Without it, `static` for the
            rule `mask` and `dynamic` for the others.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parts do not go together.
    """
    needed = {"polynomial": ("coefficients", coefficients), "magnitude": ("ratios", ratios)}
    for name, (parameter, value) in needed.items():
        if rule == name and value is None:
            raise bad_value("rule", f"the rule `{name}` needs `{parameter}`")
        if rule != name and value is not None:
            raise bad_value(parameter, f"`{parameter}` belong to the rule `{name}`")
    if clamp and rule != "polynomial":
        raise bad_value("clamp", "`clamp` belongs to the rule `polynomial`")
    own = numbers("ratios", ratios)
    steps = mask_from(preset, compute_bins, reuse_bins, mask, policy or ("static" if rule == "mask" else "dynamic"))
    if rule == "mask":
        if steps is None:
            raise bad_value("rule", "the rule `mask` needs `preset`, bins or `mask`")
        if policy == "dynamic":
            raise bad_value("policy", "`policy` dynamic needs a rule that measures beside the mask")
        for parameter, limit in (("max_consecutive", max_consecutive), ("max_reused", max_reused)):
            if limit is not None:
                raise bad_value(parameter, f"a static mask decides alone: leave `{parameter}` out")
        if threshold is not None:
            raise bad_value("threshold", "the rule `mask` has no `threshold`")
    elif threshold is None:
        raise bad_value("rule", f"the rule `{rule}` needs a `threshold`")
    if max_accumulated is not None and rule not in ("change", "polynomial"):
        raise bad_value("max_accumulated", "`max_accumulated` adds up measured changes, and this rule measures none")
    return Gate(
        "gate",
        signal=signal,
        rule=rule,
        threshold=threshold,
        mask=steps,
        coefficients=numbers("coefficients", coefficients),
        clamp=clamp,
        ratios=None if own is None else {"positive": own},
        order=order,
        front=front_blocks,
        back=back_blocks,
        stacks=stacks,
        limits=Limits(warmup_steps, warmup_interval, warmup_share, max_consecutive, max_reused, max_accumulated, last),
    )
