"""`cache.dbcache`: reuse while the first blocks add about as much as before."""

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
    the cache-dit package, whose names stand in brackets.

    Args:
        front_blocks: First blocks that always run (Fn_compute_blocks, FN). Without it 8, and 1 for models of fewer
            than 16 blocks.
        back_blocks: Last blocks that always run (Bn_compute_blocks, BN).
        threshold: Relative change under which is reused (residual_diff_threshold, RDT). 0 computes everything; 1 and
            more compare nothing and reuse every step that no limit forbids.
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
    if policy == "static" and (preset, compute_bins, reuse_bins, mask) == (None, None, None, None):
        raise bad_value("policy", "`policy` static needs a mask, and there is none")
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
