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

    Derivatives are differences between computed steps, from the second one on. (The cache-dit package begins at the
    fourth, so that with fewer steps before the first reused one it expands nothing.) Each order keeps one tensor more
    per branch.

    Args:
        order: Order of the expansion (taylorseer_order, TS_ORDER).
        front_blocks: First blocks that always run. Without it 8, and 1 for models of fewer than 16 blocks.
        back_blocks: Last blocks that always run.
        threshold: Relative change of the first blocks' residual; a smaller change is reused.
        warmup_steps: First steps that are computed.
        warmup_interval: Of these, every n-th is.
        max_consecutive: Longest run of reused steps.
        max_reused: Most reused steps.
        max_accumulated: Compute everything once the measured changes have added up to this.
        preset: Which steps may be reused, as in `cache.scm`.
        compute_bins: The same as lengths of runs of computed steps.
        reuse_bins: Lengths of the runs of steps between them.
        mask: The same as digits, 1 to compute and 0 to reuse, one for each step.
        policy: At a 0 of the mask, `dynamic` reuses if the threshold agrees, `static` always.
        stacks: A model with two lists of blocks decides once, or `separate`ly for each.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
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
