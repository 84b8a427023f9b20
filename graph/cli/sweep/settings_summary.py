"""One row for each value of the names in the reference: medians and the worst over everything else, and the front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from .measured_runs import Measured, finite
from .sweep_file import Sweep


@dataclass(frozen=True)
class Setting:
    """A value of each name in the reference, with numbers over all combinations that have it.

    Attributes:
        values: The values.
        runs: Combinations that are done.
        of: All combinations that have these values.
        loop_seconds: Median seconds of the loops; None if there are none.
        seconds: Median seconds of the whole run.
        share: Median of the seconds as a share of the reference's, pair by pair.
        steps: Median of the computed steps.
        turns: The turns of the loops; None if they differ.
        psnr: Median PSNR in dB; infinity for equal pixels.
        worst_psnr: The lowest PSNR.
        ssim: Median SSIM.
        worst_ssim: The lowest SSIM.
        is_reference: Whether the others are compared with it.
        front: Whether no other setting is both faster, or as fast, and more alike.
    """

    values: Mapping[str, str]
    runs: int
    of: int
    loop_seconds: float | None = None
    seconds: float | None = None
    share: float | None = None
    steps: float | None = None
    turns: int | None = None
    psnr: float | None = None
    worst_psnr: float | None = None
    ssim: float | None = None
    worst_ssim: float | None = None
    is_reference: bool = False
    front: bool = False

    @property
    def compared_seconds(self) -> float | None:
        """The seconds of the loops, or of the whole where there is no loop."""
        return self.loop_seconds if self.loop_seconds is not None else self.seconds

    def json(self) -> dict[str, Any]:
        """The setting as plain data. The PSNR of equal pixels is null, as in `sgd diff --json`."""
        return {
            "values": dict(self.values),
            "runs": self.runs,
            "of": self.of,
            "loop_seconds": self.loop_seconds,
            "seconds": self.seconds,
            "share": self.share,
            "computed_steps": self.steps,
            "steps": self.turns,
            "psnr": finite(self.psnr),
            "worst_psnr": finite(self.worst_psnr),
            "equal": self.worst_psnr == math.inf,
            "ssim": self.ssim,
            "worst_ssim": self.worst_ssim,
            "reference": self.is_reference,
            "front": self.front,
        }


def settings_of(sweep: Sweep, found: Sequence[Measured]) -> tuple[Setting, ...]:
    """The settings in the order of the first combination that has each; empty without a reference."""
    names = [each.name for each in sweep.reference]
    if not names:
        return ()
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for each in found:
        groups.setdefault(tuple(each.combination.values[name] for name in names), []).append(each)
    fixed = tuple(each.value for each in sweep.reference)
    rows = [_setting(dict(zip(names, key, strict=True)), group, key == fixed) for key, group in groups.items()]
    best = front([(row.compared_seconds, row.psnr) for row in rows])
    return tuple(replace(row, front=number in best) for number, row in enumerate(rows))


def front(points: Sequence[tuple[float | None, float | None]]) -> set[int]:
    """The Pareto front: numbers of the points that no other beats.

    A point beats another that takes at least as long and is at most as alike, if one of both differs.

    Args:
        points: Seconds and PSNR of each. One with None is not on the front.
    """
    known = [(number, s, p) for number, (s, p) in enumerate(points) if s is not None and p is not None]
    return {
        number
        for number, seconds, psnr in known
        if not any(s <= seconds and p >= psnr and (s < seconds or p > psnr) for _, s, p in known)
    }


def _setting(values: Mapping[str, str], group: Sequence[Measured], is_reference: bool) -> Setting:
    done = [each for each in group if each.status == "done"]
    alike = [each.alike for each in done if each.alike is not None]
    psnr = [each.psnr for each in alike if each.psnr is not None]
    ssim = [each.ssim for each in alike if each.ssim is not None]
    turns = {each.turns for each in done}
    return Setting(
        values,
        len(done),
        len(group),
        _median(each.loop_seconds for each in done),
        _median(each.seconds for each in done),
        _median(each.share for each in done),
        _median(each.steps for each in done),
        turns.pop() if len(turns) == 1 else None,
        _median(psnr),
        min(psnr, default=None),
        _median(ssim),
        min(ssim, default=None),
        is_reference,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    found = median(known)
    # The mean of a number and infinity is infinity: of two values in the middle, the lower one counts then.
    return found if math.isfinite(found) else sorted(known)[(len(known) - 1) // 2]
