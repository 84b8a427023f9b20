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
    """Reuse at the steps that a mask says (SCM, steps computation masking of Cache-DiT).

    A static mask is known before the run: nothing is measured, and nothing waits for the device.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra` compute about 18, 15, 11 and 8 of 28 steps, and are scaled to other
            numbers of 8 and more; the last step is computed. `none` computes all. Without any choice,
            `medium`.
        compute_bins: Lengths of the runs of computed steps, such as [8, 3, 3, 2, 2].
        reuse_bins: Lengths of the runs of reused steps between them, such as [1, 2, 2, 2, 3].
        mask: The mask itself: 1 to compute and 0 to reuse, one digit for each step.
        policy: At a 0, `static` reuses; `dynamic` reuses if the residual of the first blocks has changed by less than
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
