"""The table of a sweep on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...contract.text_tables import seconds, shortened
from ..fitted_tables import fitted, wrapped
from .measured_runs import Measured
from .settings_summary import Setting
from .short_values import short_values

LONGEST = 40
"""Characters of a value in the table."""

SHARED = "whole: the whole run; an earlier run of the sweep has loaded what both use"


def settings_table(settings: Sequence[Setting], width: int | None = None) -> str:
    """The table of the settings, in order, with the front marked."""
    names = list(settings[0].values)
    turns = any(each.steps is not None for each in settings)
    loops = any(each.loop_seconds is not None for each in settings)
    head = [*names, "runs", *(["loop s"] if loops else []), "whole s", "share", *(["steps"] if turns else [])]
    head += ["PSNR", "worst", "SSIM", "worst", "front"]
    lines = [head]
    short = {name: short_values(each.values[name] for each in settings) for name in names}
    for each in settings:
        row = [shortened(short[name][each.values[name]], LONGEST) for name in names]
        row += [str(each.runs) if each.runs == each.of else f"{each.runs} of {each.of}"]
        row += [seconds(each.loop_seconds)] if loops else []
        row += [seconds(each.seconds), "-" if each.share is None else f"{each.share:.2f}"]
        row += [steps(each.steps, each.turns)] if turns else []
        if each.is_reference:
            row += ["reference", "", "", ""]
        else:
            row += [decibels(each.psnr), decibels(each.worst_psnr), similarity(each.ssim), similarity(each.worst_ssim)]
        lines.append([*row, "*" if each.front else ""])
    text = fitted(lines, width, flexible=names[0], right=range(len(names), len(head) - 1))
    notes = [
        "medians over everything that does not vary in the reference; share: of the reference's "
        + ("loop seconds" if loops else "seconds")
        + ", pair by pair",
        *([SHARED] if loops else []),
        "front: no other setting is both as fast and as much like the reference",
    ]
    return "\n".join([*text, "", *(line for note in notes for line in wrapped(note, width, "  "))])


def combinations_table(found: Sequence[Measured], width: int | None = None) -> str:
    """The table of all combinations, for a sweep without a reference."""
    names = list(found[0].combination.values)
    turns = any(each.steps is not None for each in found)
    loops = any(each.loop_seconds is not None for each in found)
    head = ["", *names, *(["loop s"] if loops else []), "whole s", *(["steps"] if turns else []), "status"]
    lines = [head]
    short = {name: short_values(each.combination.values[name] for each in found) for name in names}
    for each in found:
        row = [str(each.combination.number)]
        row += [shortened(short[name][each.combination.values[name]], LONGEST) for name in names]
        row += [seconds(each.loop_seconds)] if loops else []
        row += [seconds(each.seconds)]
        row += [steps(each.steps, each.turns)] if turns else []
        lines.append([*row, f"{each.status}, reused" if each.reused else each.status])
    text = fitted(lines, width, flexible=names[0], right=(0, *range(len(names) + 1, len(head) - 1)))
    return "\n".join([*text, *(["", *wrapped(SHARED, width, "  ")] if loops else [])])


def steps(computed: float | None, turns: int | None) -> str:
    """Computed steps as text: `12 of 20`, or `12.5`."""
    if computed is None:
        return "-"
    return f"{computed:.4g} of {turns}" if turns else f"{computed:.4g}"


def decibels(value: float | None) -> str:
    """A PSNR as text; `equal` for equal pixels."""
    return "-" if value is None else "equal" if value == math.inf else f"{value:.2f}"


def similarity(value: float | None) -> str:
    """An SSIM as text."""
    return "-" if value is None else f"{value:.4f}"
