"""`cache.dbcache`: reuse while the residual of the first blocks hardly changes."""

from __future__ import annotations

from ..gate import Gate, Limits, Policy, Preset
from .gate_node import gate_node
from .parameters import Count, Positive, Stacks, Threshold, bad_value, mask_from


@gate_node("cache.dbcache")
def dbcache(
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
    """Reuse the residual of the middle blocks while that of the first blocks hardly changes (DBCache of Cache-DiT).

    At each step the first blocks run. Their residual is the difference between their output and input. If it has
    changed by less than `threshold` since the last computed step (mean absolute difference over mean absolute value),
    the residual of the middle blocks is added again, and only the last blocks run. Parameters and defaults are those of
    the cache-dit package; the brackets give the package's names.

    Args:
        front_blocks: Number of first blocks that always run (Fn_compute_blocks, FN). The default is 8, and 1 for models
            with fewer than 16 blocks.
        back_blocks: Number of last blocks that always run (Bn_compute_blocks, BN).
        threshold: A step is reused if the relative change is below this number (residual_diff_threshold, RDT). 0
            computes every step. With 1 or more, nothing is compared, and every step is reused that no limit forbids.
        warmup_steps: Number of first steps that are computed (max_warmup_steps, WARMUP).
        warmup_interval: Compute only every n-th of these first steps (warmup_interval).
        max_consecutive: Largest number of reused steps in a row (max_continuous_cached_steps, MC).
        max_reused: Largest number of reused steps (max_cached_steps).
        max_accumulated: When the sum of the measured changes reaches this number, all further steps are computed
            (max_accumulated_residual_diff_threshold).
        preset: Name of a mask: the steps that may be reused, as in `cache.scm` (SCM_PRESET).
        compute_bins: The mask as lengths of the runs of computed steps (SCM_COMPUTE_BINS).
        reuse_bins: The lengths of the runs of reused steps between the runs of computed steps (SCM_CACHE_BINS).
        mask: The mask as digits, one for each step: 1 to compute, 0 to reuse (steps_computation_mask).
        policy: At a 0 of the mask, `dynamic` reuses if the change is below the threshold, and `static` always reuses
            (SCM_POLICY).
        stacks: For a model with two lists of blocks (HunyuanVideo, FLUX): `together` decides once, with the first list.
            `separate` decides for each list, as cache-dit does for HunyuanVideo.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
    """
    if policy == "static" and (preset, compute_bins, reuse_bins, mask) == (None, None, None, None):
        raise bad_value("policy", "`policy: static` needs a mask, and none is given")
    limits = Limits(warmup_steps, warmup_interval, 0.0, max_consecutive, max_reused, max_accumulated)
    return Gate(
        "dbcache",
        signal="front",
        rule="change",
        threshold=threshold,
        mask=mask_from(preset, compute_bins, reuse_bins, mask, policy),
        front=front_blocks,
        back=back_blocks,
        stacks=stacks,
        limits=limits,
    )
