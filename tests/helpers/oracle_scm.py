"""cache-dit's masks of steps: 1 computes, 0 may reuse."""

from __future__ import annotations

import cache_dit

PRESETS = ("slow", "medium", "fast", "ultra")


def masks(first: int = 8, last: int = 100) -> dict[tuple[str, int], str]:
    """The mask of every preset and number of steps, as text of 1 and 0."""
    return {
        (preset, steps): "".join(map(str, cache_dit.steps_mask(total_steps=steps, mask_policy=preset)))
        for preset in PRESETS
        for steps in range(first, last + 1)
    }


def from_bins(compute: list[int], reuse: list[int], steps: int | None = None) -> str:
    """The mask of alternating bins; the first bin of `compute` comes first.

    Raises:
        AssertionError: If the bins do not reach `steps`.
    """
    return "".join(map(str, cache_dit.steps_mask(compute_bins=compute, cache_bins=reuse, total_steps=steps)))
