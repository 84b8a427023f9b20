"""`cache.gate`: a gate by its five choices."""

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
    """Describe a gate by its parts, for combinations that no other gate has.

    Args:
        signal: The tensor that is compared between steps. `time`: the embedding of the timestep (Wan),
            `time_projection` its projection. `modulated`: the first block's input, normed and modulated. `front`: the
            residual of the first blocks, compared with the last computed step. `model`: the model's input and output,
            as in `cache.easycache`.
        rule: When to reuse. `mask`: at the zeros of the mask. `change`: if the signal's change is below the threshold.
            `polynomial`: if the sum of a polynomial of the signal's changes is below the threshold. `magnitude`: if the
            error that `ratios` predict is not above the threshold.
        threshold: Threshold of the rule; not for the rule `mask`.
        coefficients: Coefficients for the rule `polynomial`, highest order first; [1, 0] adds up the changes
            themselves.
        clamp: Count negative values of the polynomial as 0.
        ratios: Ratios for the rule `magnitude`: for each step, the norm of the residual divided by that of the step
            before.
        order: Order of the Taylor expansion of the reused residual; 0 takes the last residual unchanged.
        front_blocks: Number of first blocks that always run.
        back_blocks: Number of last blocks that always run.
        stacks: For a model with two lists of blocks: `together` decides once for both, `separate` decides for each
            list.
        warmup_steps: Number of first steps that are computed.
        warmup_interval: Compute only every n-th of these first steps.
        warmup_share: Share of the steps, in [0, 1], that are computed at the start.
        max_consecutive: Largest number of reused steps in a row.
        max_reused: Largest number of reused steps.
        max_accumulated: When the sum of the measured changes reaches this number, all further steps are computed.
        last: Compute the last step.
        preset: Name of a mask: the steps that may be reused, as in `cache.scm`.
        compute_bins: The mask as lengths of the runs of computed steps.
        reuse_bins: The lengths of the runs of reused steps between the runs of computed steps.
        mask: The mask as digits, one for each step: 1 to compute, 0 to reuse.
        policy: At a 0 of the mask, `dynamic` reuses if the rule agrees, and `static` always reuses. The default is
            `static` for the rule `mask` and `dynamic` for the other rules.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parts conflict.
    """
    needed = {"polynomial": ("coefficients", coefficients), "magnitude": ("ratios", ratios)}
    for name, (parameter, value) in needed.items():
        if rule == name and value is None:
            raise bad_value("rule", f"the rule `{name}` needs `{parameter}`")
        if rule != name and value is not None:
            raise bad_value(parameter, f"`{parameter}` is only for the rule `{name}`")
    if clamp and rule != "polynomial":
        raise bad_value("clamp", "`clamp` is only for the rule `polynomial`")
    own = numbers("ratios", ratios)
    steps = mask_from(preset, compute_bins, reuse_bins, mask, policy or ("static" if rule == "mask" else "dynamic"))
    if rule == "mask":
        if steps is None:
            raise bad_value("rule", "the rule `mask` needs `preset`, bins or `mask`")
        if policy == "dynamic":
            raise bad_value("policy", "`policy: dynamic` needs a mask and a rule that measures a signal")
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
