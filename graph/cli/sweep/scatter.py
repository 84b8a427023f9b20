"""The scatter of a sweep: seconds against PSNR, a point for each setting, and the Pareto front. Drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...contract.text_tables import seconds, shortened
from .name_places import name_places
from .settings_summary import Setting
from .short_values import short_values
from .sweep_table import decibels

WIDTH, HEIGHT = 900, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 880, 40, 384
EQUAL = TOP + 10
"""Where points without a difference stand, above all others: they have no number of decibels."""
MOST_NAMES = 40
"""Settings of which each has its name in the drawing. With more, only those of the front have."""


@dataclass(frozen=True)
class Tick:
    """A number of an axis, and its place."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A setting in the drawing. `choose` names its values by the places of filters and of values in them."""

    x: float
    y: float
    worst: float | None
    about: str
    choose: str
    name: str
    name_x: float
    name_y: float
    anchor: str
    front: bool
    is_reference: bool

    @property
    def is_far(self) -> bool:
        """Whether the name stands so far off that a line leads to it."""
        return bool(self.name) and abs(self.name_y - 4 - self.y) > 20


@dataclass(frozen=True)
class Scatter:
    """The drawing, as the template needs it."""

    about: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]
    line: str
    note: str
    legend: Sequence[tuple[str, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


@dataclass
class _Axis:
    """A scale from numbers to pixels, with ticks at round numbers."""

    values: Sequence[float]
    start: float
    end: float
    from_zero: bool = False
    ticks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        low, high = (0.0 if self.from_zero else min(self.values)), max(self.values)
        if high <= low:
            low, high = low - max(abs(low) * 0.1, 0.5), high + max(abs(high) * 0.1, 0.5)
        step = _round_step((high - low) / 5)
        self.low, self.high = math.floor(low / step) * step, math.ceil(high / step) * step
        count = round((self.high - self.low) / step)
        self.ticks = [self.low + n * step for n in range(count + 1)]

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def scatter(settings: Sequence[Setting], choose: dict[int, str]) -> Scatter | None:
    """The drawing; None if there are no two settings with seconds and a PSNR.

    Args:
        settings: The settings.
        choose: For each setting by its number from 0, the values that a click on it chooses.
    """
    shown = [
        (number, each, each.compared_seconds, each.psnr)
        for number, each in enumerate(settings)
        if each.compared_seconds is not None and each.psnr is not None
    ]
    if len(shown) < 2:
        return None
    known = [p for _, _, _, p in shown if p is not None and math.isfinite(p)]
    known += [each.worst_psnr for _, each, _, _ in shown if each.worst_psnr is not None and each.worst_psnr < math.inf]
    x = _Axis([s for _, _, s, _ in shown if s is not None], LEFT, RIGHT, from_zero=True)
    y = _Axis(known or [30.0, 60.0], BOTTOM, TOP + 40)

    def height(value: float | None) -> float:
        return EQUAL if value is None or value == math.inf else y.at(value)

    short = {name: short_values(each.values[name] for each in settings) for name in settings[0].values}
    at, worst, names = [], [], []
    for _, each, took, psnr in shown:
        at.append((x.at(took or 0.0), height(psnr)))
        worst.append(height(each.worst_psnr) if each.worst_psnr != psnr and each.worst_psnr is not None else None)
        named = each.front or each.is_reference or len(shown) <= MOST_NAMES
        names.append(" ".join(shortened(short[name][value], 44) for name, value in each.values.items()) * named)
    order = sorted(range(len(shown)), key=lambda number: at[number][1])
    placed = name_places([(*at[n], worst[n], names[n]) for n in order], (LEFT, TOP, RIGHT, BOTTOM))
    points = [
        Point(*at[n], worst[n], _about(shown[n][1]), choose[shown[n][0]], names[n], place.x, place.y, place.anchor,
              shown[n][1].front, shown[n][1].is_reference)
        for n, place in zip(order, placed, strict=True)
    ]  # fmt: skip
    best = sorted((point.x, point.y) for point in points if point.front)
    line = " ".join(f"{'M' if not n else 'L'}{px} {py}" for n, (px, py) in enumerate(best)) if len(best) > 1 else ""
    loops = all(each.loop_seconds is not None for _, each, _, _ in shown)
    equal = [Tick(EQUAL, "equal")] if any(p == math.inf for _, _, _, p in shown) else []
    spread = any(point.worst is not None for point in points)
    legend = [("best", "on the front"), ("zero", "reference"), ("", "others")]
    return Scatter(
        f"Scatter of {len(points)} settings: seconds against PSNR. The table below holds the same numbers.",
        "median seconds of the loops" if loops else "median seconds of the run",
        "median PSNR in dB",
        [Tick(x.at(value), f"{value:.4g}") for value in x.ticks],
        [*equal, *(Tick(y.at(value), f"{value:.4g}") for value in y.ticks)],
        points,
        line,
        f"{len(settings) - len(shown)} settings are not drawn: no run of theirs could be compared."
        if len(shown) < len(settings)
        else "",
        [*legend, *([("whisker", "down to the worst run")] if spread else [])],
    )


def _about(each: Setting) -> str:
    values = ", ".join(f"{name} {shortened(value, 80)}" for name, value in each.values.items())
    if each.is_reference:
        return f"{values}: the reference, {seconds(each.compared_seconds)} s"
    worst = f", worst {decibels(each.worst_psnr)}" if each.worst_psnr != each.psnr else ""
    share = f", {each.share:.2f} of the reference" if each.share is not None else ""
    front = "; on the front" if each.front else ""
    return f"{values}: {seconds(each.compared_seconds)} s{share}, PSNR {decibels(each.psnr)}{worst}{front}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
