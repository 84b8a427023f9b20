"""Step masks (SCM): which steps are computed (1) and which may be reused (0). Torch-free.

The presets and their scaling are those of `steps_mask` in the cache-dit package (caching/cache_interface.py,
Apache-2.0). This module does not call the function, because its import takes seconds and needs torch, and `sgd check`
imports no torch. The tests compare both for every number of steps from 8 to 100.
"""

from __future__ import annotations

from collections.abc import Sequence

from .gate import Mask

Bins = tuple[tuple[int, ...], tuple[int, ...]]
"""Lengths of the runs of computed steps, and of the runs of reused steps between them."""

PRESETS: dict[str, Bins] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
"""The presets for 28 steps. They are lengthened or cut for other numbers of steps."""

SHORT: dict[str, Bins] = {
    "slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
    "medium": ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
    "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
    "ultra": ((2, 1, 1, 1, 1), (1, 2, 3, 3)),
}
"""The presets for 15 steps. They are cut for 10 to 14 steps."""

EXACT: dict[int, dict[str, Bins]] = {
    8: {
        "slow": ((5, 1, 1), (1,)),
        "medium": ((4, 1, 1), (1, 1)),
        "fast": ((3, 1, 1), (1, 2)),
        "ultra": ((2, 1, 1), (2, 2)),
    },
    9: {
        "slow": ((5, 2, 1), (1,)),
        "medium": ((5, 1, 1), (1, 1)),
        "fast": ((4, 1, 1), (1, 2)),
        "ultra": ((3, 1, 1), (2, 2)),
    },
}
NAMES = ("none", *PRESETS)


def mask_of(mask: Mask, steps: int) -> str:
    """Turn a mask into digits for a number of steps.

    Raises:
        ValueError: If the mask has another number of steps, or cannot be scaled to this number. The message is for the
            user.
    """
    if mask.digits is not None:
        if len(mask.digits) != steps:
            raise ValueError(f"the mask has {len(mask.digits)} digits, and the loop takes {steps} steps")
        return mask.digits
    if mask.compute_bins:
        return from_bins(mask.compute_bins, mask.reuse_bins, steps)
    if mask.every is not None:
        return "".join("0" if index % mask.every else "1" for index in range(steps))
    assert mask.preset is not None, "a mask has digits, bins, an interval or a preset"
    return preset_mask(mask.preset, steps)


def from_bins(compute: Sequence[int], reuse: Sequence[int], steps: int) -> str:
    """Join alternating runs of computed and reused steps to digits, cut to the number of steps.

    Raises:
        ValueError: If the runs are too short.
    """
    total = sum(compute) + sum(reuse)
    if total < steps:
        raise ValueError(f"the bins have {total} steps, and the loop takes {steps}")
    pieces = []
    for number in range(max(len(compute), len(reuse))):
        pieces.append("1" * compute[number] if number < len(compute) else "")
        pieces.append("0" * reuse[number] if number < len(reuse) else "")
    return "".join(pieces)[:steps]


def preset_mask(name: str, steps: int) -> str:
    """Scale a preset to the number of steps. Its last step is computed.

    Raises:
        ValueError: For fewer than 8 steps.
    """
    if name == "none":
        return "1" * steps
    if steps in EXACT:
        compute, reuse = EXACT[steps][name]
    elif steps < 8:
        raise ValueError(f"the presets are for 8 steps and more, and the loop takes {steps}")
    elif steps < 16:
        compute, reuse = _cut(SHORT[name], steps)
    else:
        compute, reuse = _cut(_grown(PRESETS[name], steps), steps)
    return from_bins(compute, reuse, steps)[:-1] + "1"


def _grown(bins: Bins, steps: int) -> Bins:
    """Lengthen the bins one after the other, each by its share of the total, until they cover the steps."""
    base, now = bins, (list(bins[0]), list(bins[1]))
    share = steps / 28 * 0.5

    def covered() -> bool:
        return sum(now[0]) + sum(now[1]) >= steps

    while not covered():
        for number in range(min(len(base[0]), len(base[1]))):
            for kind in (0, 1):
                now[kind][number] += max(int(base[kind][number] * share), 1)
                if covered():
                    return tuple(now[0]), tuple(now[1])
        now[0][-1] += 1
    return tuple(now[0]), tuple(now[1])


def _cut(bins: Bins, steps: int) -> Bins:
    """Shorten the bins at their ends, by a reused step and a computed step alternately."""
    now = (list(bins[1]), list(bins[0]))
    kind = 0
    while sum(now[0]) + sum(now[1]) > steps:
        if now[kind]:
            now[kind][-1] -= 1
            if not now[kind][-1]:
                now[kind].pop()
        kind = 1 - kind
    return tuple(now[1]), tuple(now[0])
