"""The drawing of a graph in HTML: boxes, wires, and the facts of each box.

The boxes come from the names and edges of a record, or of a workflow file; both have the same form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from ...contract.text_tables import seconds, shortened
from .graph_layout import Point, Wire, layout
from .graph_tree import Box, tree
from .page import piece

MOST_BOXES = 300
LETTER, SMALL_LETTER = 7.6, 6.6  # widths in pixels of the fonts of names and types in `report.css`
NARROWEST, WIDEST = 116.0, 236.0
HEATS = 10
"""Shades of a box beside the first, which is none."""


@dataclass(frozen=True)
class NodeFacts:
    """The facts of a node, loop or composite, for the panel beside the drawing.

    Attributes:
        summary: One line of documentation.
        rows: Names and values.
        seconds: Its time in a run; None without a run.
        calls: Its calls in a run; 0 for a node that did not run.
        idle: The words in place of the time of a node that did not run.
    """

    summary: str = ""
    rows: Sequence[tuple[str, str]] = ()
    seconds: float | None = None
    calls: int | None = None
    idle: str = "did not run"


@dataclass(frozen=True)
class DrawnBox:
    """A box as the template draws it. `type` is the text in it, `kind` the whole type.

    Lengths are in pixels. `heat` is a shade from 0 to `HEATS`; None without times.
    """

    path: str
    name: str
    type: str
    kind: str
    note: str
    x: float
    y: float
    width: float
    height: float
    is_group: bool
    chip_x: float
    chip_width: float
    heat: int | None
    share: float
    facts: NodeFacts


def drawing(
    names: Mapping[str, str], edges: Iterable[tuple[str, str]], facts: Mapping[str, NodeFacts], id: str
) -> Markup:
    """Draw a graph, with a panel that shows the facts of the chosen box.

    Args:
        names: The type of every node, loop and composite, by path.
        edges: Its edges, as `graph/compiler/edge_list.py` describes them.
        facts: The facts of boxes by path. Boxes without facts are drawn too.
        id: A name that no other drawing of the page has.
    """
    root = tree(names, edges, MOST_BOXES)
    if root is None:
        return piece("note", text=f"The graph is not drawn: it has {len(names)} nodes, more than {MOST_BOXES}.")
    timed = any(f.seconds is not None for f in facts.values())
    wires = layout(root, lambda box: _width(box, timed))
    nodes = [f.seconds or 0.0 for path, f in facts.items() if path in names and not _holds(path, names)]
    total = sum(nodes) or 1.0
    boxes = [_drawn(box, facts.get(box.path, NodeFacts()), total, timed) for box in root.walk()]
    closed = sum(box.hidden for box in root.walk())
    return piece(
        "drawing",
        id=id,
        boxes=boxes,
        ends={box.path for box in boxes if not box.is_group},
        wires=[(_path(wire), f"{wire.port[0]}.{wire.port[1]}", wire) for wire in wires],
        width=root.width,
        height=root.height,
        timed=timed,
        slowest=max((box for box in boxes if not box.is_group), key=lambda box: box.share).path if timed else None,
        heats=range(HEATS + 1),
        closed=closed,
    )


def _holds(path: str, names: Mapping[str, str]) -> bool:
    return any(other.startswith(f"{path}.") for other in names)


def _label(box: Box) -> str:
    return shortened(box.name, 26)


def _type(box: Box) -> str:
    closed = f" ({box.hidden} nodes)" if box.hidden else ""
    return shortened(box.type, 30) + closed


def _group_type(box: Box, timed: bool) -> str:
    """The type in the label of a group: the file of a composite only where there is no time beside it."""
    return "\u21bb" if box.type == "loop" else "" if timed else shortened(box.type.rsplit("/", 1)[-1], 24)


def _label_width(box: Box, timed: bool) -> float:
    """The width of a group's label."""
    type, note = _group_type(box, timed), "100 s \u00b7 100%" if timed else ""
    return 22 + len(_label(box)) * LETTER + sum(8 + len(text) * SMALL_LETTER for text in (type, note) if text)


def _width(box: Box, timed: bool) -> float:
    """The width of a node, or of a group's label."""
    if box.inside:
        return _label_width(box, timed)
    needed = max(len(_label(box)) * LETTER, (len(_type(box)) + 2) * SMALL_LETTER, 15 * SMALL_LETTER) + 28
    return min(max(needed, NARROWEST), WIDEST)


def _drawn(box: Box, facts: NodeFacts, total: float, timed: bool) -> DrawnBox:
    share = max(0.0, min(1.0, (facts.seconds or 0.0) / total))
    heat = None
    if timed:
        heat = 0 if share < 0.005 else max(1, round(share**0.6 * HEATS))
    note = ""
    if facts.seconds is not None:
        ran = facts.calls != 0
        note = f"{seconds(facts.seconds)} s · {share:.0%}" if ran else facts.idle
    return DrawnBox(
        path=box.path,
        name=_label(box),
        type=_type(box) if not box.inside else _group_type(box, timed),
        kind=box.type,
        note=note,
        x=box.x,
        y=box.y,
        width=box.width,
        height=box.height,
        is_group=bool(box.inside),
        chip_x=box.label_x,
        chip_width=_label_width(box, timed),
        heat=heat,
        share=share,
        facts=facts,
    )


def _path(wire: Wire) -> str:
    """The line of a wire for the attribute `d` of SVG."""
    return _corners(wire.points) if wire.back else _curves(wire.points)


def _curves(points: Sequence[Point]) -> str:
    """Curves between layers, straight lines through them."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for number, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        if number % 2 or abs(x1 - x0) < 0.5:
            parts.append(f"L{x1:.1f} {y1:.1f}")
        else:
            middle = (y0 + y1) / 2
            parts.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return "".join(parts)


def _corners(points: Sequence[Point], radius: float = 8.0) -> str:
    """Straight lines with round corners."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
        before = min(radius, (abs(x1 - x0) + abs(y1 - y0)) / 2)
        after = min(radius, (abs(x2 - x1) + abs(y2 - y1)) / 2)
        parts.append(f"L{_toward(x1, y1, x0, y0, before)}Q{x1:.1f} {y1:.1f} {_toward(x1, y1, x2, y2, after)}")
    return "".join(parts) + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def _toward(x: float, y: float, other_x: float, other_y: float, distance: float) -> str:
    length = abs(other_x - x) + abs(other_y - y) or 1.0
    return f"{x + (other_x - x) / length * distance:.1f} {y + (other_y - y) / length * distance:.1f}"
