"""`cache.dbcache`, `cache.taylorseer`, `cache.scm`: gates on what the first blocks add, and on masks of steps."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field

from ....graph.contract.node import Here, node
from ..gate import Gate, Limits, Policy, Preset
from .parameters import Count, Order, Positive, Stacks, Threshold, checked, described, made, mask_from


def _dbcache(
    *,
    front_blocks: int | None,
    back_blocks: int,
    threshold: float,
    warmup_steps: int,
    warmup_interval: int,
    max_consecutive: int | None,
    max_reused: int | None,
    max_accumulated: float | None,
    preset: Preset | None,
    compute_bins: list[int] | None,
    reuse_bins: list[int] | None,
    mask: str | None,
    policy: Policy,
    stacks: Stacks,
    order: int = 0,
    kind: str = "dbcache",
) -> Gate:
    if policy == "static" and (preset, compute_bins, reuse_bins, mask) == (None, None, None, None):
        raise ValueError("`policy` static reuses where a mask says, and there is no mask")
    limits = Limits(warmup_steps, warmup_interval, 0.0, max_consecutive, max_reused, max_accumulated)
    return Gate(
        kind,
        signal="front",
        rule="change",
        threshold=threshold,
        mask=mask_from(preset, compute_bins, reuse_bins, mask, policy),
        order=order,
        front=front_blocks,
        back=back_blocks,
        stacks=stacks,
        limits=limits,
    )


def _taylorseer(*, order: int, **values: Any) -> Gate:
    return _dbcache(order=order, kind="taylorseer", **values)


@node("cache.dbcache", describe=partial(described, _dbcache), check=partial(checked, _dbcache, "threshold"))
def dbcache(
    here: Here,
    *,
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
    """Reuse what the middle blocks add while the first blocks add about what they did (DBCache of Cache-DiT).

    At each step the first blocks run. If what they add to their input has changed by less than `threshold` since the
    last computed step (mean absolute difference over mean absolute value), what the middle blocks added then is added
    again, and only the last blocks run. Parameters and defaults are those of the cache-dit package, whose names are
    given in brackets.

    Args:
        front_blocks: First blocks that always run (Fn_compute_blocks, FN). Without it 8, and 1 for models of fewer
            than 16 blocks.
        back_blocks: Last blocks that always run (Bn_compute_blocks, BN).
        threshold: Relative change under which is reused (residual_diff_threshold, RDT). 0 computes everything; 1 and
            more compare nothing and reuse whatever no limit forbids.
        warmup_steps: First steps that are computed (max_warmup_steps, WARMUP).
        warmup_interval: Of these, every n-th is (warmup_interval).
        max_consecutive: Longest run of reused steps (max_continuous_cached_steps, MC).
        max_reused: Most reused steps (max_cached_steps).
        max_accumulated: Compute everything once the measured changes have added up to this
            (max_accumulated_residual_diff_threshold).
        preset: Which steps may be reused, as in `cache.scm` (SCM_PRESET).
        compute_bins: The same as lengths of runs of computed steps (SCM_COMPUTE_BINS).
        reuse_bins: Lengths of the runs of steps between them (SCM_CACHE_BINS).
        mask: The same as digits, 1 to compute and 0 to reuse, one for each step (steps_computation_mask).
        policy: At a 0 of the mask, `dynamic` reuses if the threshold agrees, `static` always (SCM_POLICY).
        stacks: A model with two lists of blocks (HunyuanVideo, FLUX) decides once, on the first of them, or
            `separate`ly for each, as cache-dit does for HunyuanVideo.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_dbcache, here, values)


@node("cache.taylorseer", describe=partial(described, _taylorseer), check=partial(checked, _taylorseer, "threshold"))
def taylorseer(
    here: Here,
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
        threshold: Relative change of what the first blocks add, under which is reused.
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
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_taylorseer, here, values)


def _scm(
    *,
    preset: Preset | None,
    compute_bins: list[int] | None,
    reuse_bins: list[int] | None,
    mask: str | None,
    policy: Policy,
    threshold: float | None,
    order: int,
    front_blocks: int | None,
    back_blocks: int,
    max_consecutive: int | None,
    max_reused: int | None,
    stacks: Stacks,
) -> Gate:
    if (preset, compute_bins, reuse_bins, mask) == (None, None, None, None):
        preset = "medium"
    steps = mask_from(preset, compute_bins, reuse_bins, mask, policy)
    dynamic = policy == "dynamic"
    measured = {"threshold": threshold, "max_consecutive": max_consecutive, "max_reused": max_reused}
    for name, value in measured.items():
        if value is not None and not dynamic:
            raise ValueError(f"a static mask decides alone: `{name}` needs `policy` dynamic")
    return Gate(
        "scm",
        signal="front" if dynamic else "none",
        rule="change" if dynamic else "mask",
        threshold=0.08 if dynamic and threshold is None else threshold,
        mask=steps,
        order=order,
        front=front_blocks,
        back=back_blocks,
        stacks=stacks,
        limits=Limits(max_consecutive=max_consecutive, max_reused=max_reused),
    )


@node("cache.scm", describe=partial(described, _scm), check=partial(checked, _scm, "preset"))
def scm(
    here: Here,
    *,
    preset: Preset | None = None,
    compute_bins: list[int] | None = None,
    reuse_bins: list[int] | None = None,
    mask: str | None = None,
    policy: Policy = "static",
    threshold: Threshold | None = None,
    order: Order = 0,
    front_blocks: Count | None = None,
    back_blocks: Count = 0,
    max_consecutive: Count | None = None,
    max_reused: Count | None = None,
    stacks: Stacks = "together",
) -> Gate:
    """Reuse at the steps that a mask says (SCM, steps computation masking of Cache-DiT).

    A static mask is known before the run: nothing is measured, and nothing waits for the device.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra` compute about 18, 15, 11 and 8 of 28 steps, and are scaled to other
            numbers of 8 and more; the last step is computed. `none` computes all. Without any choice,
            `medium`.
        compute_bins: Lengths of the runs of computed steps, such as [8, 3, 3, 2, 2].
        reuse_bins: Lengths of the runs of reused steps between them, such as [1, 2, 2, 2, 3].
        mask: The mask itself: 1 to compute and 0 to reuse, one digit for each step.
        policy: At a 0, `static` reuses; `dynamic` reuses if what the first blocks add has changed by less than
            `threshold`, as in `cache.dbcache`.
        threshold: For `dynamic` alone; without it 0.08.
        order: Order of the Taylor expansion that stands in for the residual, as in `cache.taylorseer`; 0 is none.
        front_blocks: First blocks that always run. Without it 8, and 1 for models of fewer than 16 blocks.
        back_blocks: Last blocks that always run.
        max_consecutive: Longest run of reused steps, for `dynamic` alone.
        max_reused: Most reused steps, for `dynamic` alone.
        stacks: A model with two lists of blocks decides once, or `separate`ly for each.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    values = {name: value for name, value in locals().items() if name != "here"}
    return made(_scm, here, values)
