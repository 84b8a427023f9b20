"""`cache.scm`: a mask of steps."""

from __future__ import annotations

from ..gate import Gate, Limits, Policy, Preset
from .gate_node import gate_node
from .parameters import Count, Order, Stacks, Threshold, bad_value, mask_from


@gate_node("cache.scm")
def scm(
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
    """Reuse the steps that a mask selects (SCM, steps computation masking of Cache-DiT).

    With a static mask, all decisions are known before the run: nothing is measured, and nothing waits for the device.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra` compute about 18, 15, 11 and 8 of 28 steps. They are scaled to other
            numbers of steps, from 8 on. The last step is computed. `none` computes all steps. If no mask is given,
            `medium`.
        compute_bins: Lengths of the runs of computed steps, such as [8, 3, 3, 2, 2].
        reuse_bins: Lengths of the runs of reused steps between the runs of computed steps, such as [1, 2, 2, 2, 3].
        mask: The mask as digits, one for each step: 1 to compute, 0 to reuse.
        policy: At a 0 of the mask, `static` always reuses; `dynamic` reuses if the residual of the first blocks has
            changed by less than `threshold`, as in `cache.dbcache`.
        threshold: Threshold of the policy `dynamic`; the default is 0.08.
        order: Order of the Taylor expansion that replaces the residual, as in `cache.taylorseer`; 0 is no expansion.
        front_blocks: Number of first blocks that always run. The default is 8, and 1 for models with fewer than 16
            blocks.
        back_blocks: Number of last blocks that always run.
        max_consecutive: Largest number of reused steps in a row; only for the policy `dynamic`.
        max_reused: Largest number of reused steps; only for the policy `dynamic`.
        stacks: For a model with two lists of blocks: `together` decides once for both, `separate` decides for each
            list.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
    """
    if (preset, compute_bins, reuse_bins, mask) == (None, None, None, None):
        preset = "medium"
    steps = mask_from(preset, compute_bins, reuse_bins, mask, policy)
    dynamic = policy == "dynamic"
    measured = {"threshold": threshold, "max_consecutive": max_consecutive, "max_reused": max_reused}
    for name, value in measured.items():
        if value is not None and not dynamic:
            raise bad_value("policy", f"a static mask decides alone: `{name}` needs `policy` dynamic")
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
