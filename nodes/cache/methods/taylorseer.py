"""`cache.taylorseer`: DBCache with a Taylor expansion in place of the last residual."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ....graph.contract.node import Here
from ..gate import Gate, Policy, Preset
from .dbcache import dbcache
from .gate_node import gate_node
from .parameters import Count, Positive, Stacks, Threshold


@gate_node("cache.taylorseer")
def taylorseer(
    *,
    order: Annotated[int, Field(ge=1, le=3)] = 1,
    front_blocks: Positive | None = None,
    back_blocks: Count = 0,
    threshold: Threshold = 0.08,
    warmup_steps: Count = 8,
    warmup_interval: Positive = 1,
    max_consecutive: Count | None = None,
    max_reused: Count | None = None,
    max_accumulated: Threshold | None = None,
    preset: Preset | None = None,
    compute_bins: list[int] | None = None,
    reuse_bins: list[int] | None = None,
    mask: str | None = None,
    policy: Policy = "dynamic",
    stacks: Stacks = "together",
) -> Gate:
    """`cache.dbcache` with a Taylor expansion over the steps in place of the last residual (TaylorSeer, 2503.06923).

    Derivatives are differences between computed steps, from the second computed step on. (The cache-dit package begins
    at the fourth, so it has no expansion if a step is reused before that.) Each order keeps one more tensor for each
    branch.

    Args:
        order: Order of the expansion (taylorseer_order, TS_ORDER).
        front_blocks: Number of first blocks that always run. The default is 8, and 1 for models with fewer than 16
            blocks.
        back_blocks: Number of last blocks that always run.
        threshold: A step is reused if the relative change of the first blocks' residual is below this number.
        warmup_steps: Number of first steps that are computed.
        warmup_interval: Compute only every n-th of these first steps.
        max_consecutive: Largest number of reused steps in a row.
        max_reused: Largest number of reused steps.
        max_accumulated: When the sum of the measured changes reaches this number, all further steps are computed.
        preset: Name of a mask: the steps that may be reused, as in `cache.scm`.
        compute_bins: The mask as lengths of the runs of computed steps.
        reuse_bins: The lengths of the runs of reused steps between the runs of computed steps.
        mask: The mask as digits, one for each step: 1 to compute, 0 to reuse.
        policy: At a 0 of the mask, `dynamic` reuses if the change is below the threshold, and `static` always reuses.
        stacks: For a model with two lists of blocks: `together` decides once for both, `separate` decides for each
            list.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
    """
    gate = dbcache(
        Here(),
        front_blocks=front_blocks,
        back_blocks=back_blocks,
        threshold=threshold,
        warmup_steps=warmup_steps,
        warmup_interval=warmup_interval,
        max_consecutive=max_consecutive,
        max_reused=max_reused,
        max_accumulated=max_accumulated,
        preset=preset,
        compute_bins=compute_bins,
        reuse_bins=reuse_bins,
        mask=mask,
        policy=policy,
        stacks=stacks,
    )
    return replace(gate, kind="taylorseer", order=order)
