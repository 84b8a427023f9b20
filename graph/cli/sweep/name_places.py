"""Choose places for the names of points in a drawing, so that no name covers another one, a point or a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTER, LINE = 6.5, 14.0
"""Width of a letter and height of a name, in pixels, in 12 pixel letters."""
RADIUS, GAP = 8.0, 12.0
"""Half of the size of a point, and the distance from its middle to its name, in pixels."""
SHIFTS = sorted((LINE * step for step in range(-8, 9)), key=abs)
"""Heights that are tried, as distances from the point."""
COVERED, OUTSIDE = 1000.0, 5000.0
"""Costs of a name for each thing that it covers, and for leaving the drawing. Its distance in pixels is added."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class NamePlace:
    """The place of a name: the baseline at its start or end, which stands beside the point."""

    x: float
    y: float
    anchor: str


def name_places(
    points: Sequence[tuple[float, float, float | None, str]], area: tuple[float, float, float, float]
) -> list[NamePlace]:
    """A place for the name of each point, in their order.

    Args:
        points: For each point: x, y, the y of the other end of its vertical line (None without a line), and its name
            (empty without a name).
        area: Left, top, right and bottom of the drawing.
    """
    taken: list[Box] = []
    for x, y, end, _ in points:
        taken.append((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS))
        if end is not None:
            taken.append((x - 4, min(y, end), x + 4, max(y, end)))
    found = []
    for x, y, _, name in points:
        if not name:
            found.append(NamePlace(x, y, "start"))
            continue
        width = LETTER * len(name)
        tried = [(shift, right) for shift in SHIFTS for right in (True, False)]
        boxes = [_box(x, y + shift, width, right) for shift, right in tried]
        costs = [
            _cost(box, taken, area) + abs(shift) + (not right) for box, (shift, right) in zip(boxes, tried, strict=True)
        ]
        best = min(range(len(tried)), key=costs.__getitem__)
        shift, right = tried[best]
        taken.append(boxes[best])
        found.append(
            NamePlace(round(x + GAP if right else x - GAP, 1), round(y + shift + 4, 1), "start" if right else "end")
        )
    return found


def _box(x: float, y: float, width: float, right: bool) -> Box:
    left = x + GAP if right else x - GAP - width
    return left, y - LINE / 2, left + width, y + LINE / 2


def _cost(box: Box, taken: Sequence[Box], area: Box) -> float:
    left, top, right, bottom = box
    covered = sum(left < o[2] and o[0] < right and top < o[3] and o[1] < bottom for o in taken)
    outside = left < area[0] or top < area[1] or right > area[2] or bottom > area[3]
    return COVERED * covered + OUTSIDE * outside
