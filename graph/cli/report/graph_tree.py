"""The groups of a graph's drawing, and how its wires pass through their borders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Port = tuple[str, str]
"""A place on the border of a box: the path of the item that made the value, and the name of its port."""


@dataclass(eq=False)
class Box:
    """A node, or a group: a loop, a composite, or the whole drawing.

    Attributes:
        path: Path in the file; empty for the whole drawing.
        type: Node type, `loop`, or the file of a composite.
        inside: The nodes of a group, by path.
        entries: Ports at the top border of a group, in the order of their first wire.
        exits: Ports at its bottom border.
        links: Wires between what stands in a group: from (path, port) to (path, port). An empty path is the border.
        returned: The state that a loop carries from one turn to the next, by name.
        hidden: Number of nodes in a group that is drawn closed.
        label_x: Where the label of a group begins, from its left side.
        x, y, width, height: Place in the drawing, in pixels.
    """

    path: str
    type: str = ""
    inside: dict[str, Box] = field(default_factory=dict)
    entries: dict[Port, float] = field(default_factory=dict)
    exits: dict[Port, float] = field(default_factory=dict)
    links: dict[tuple[str, Port, str, Port], None] = field(default_factory=dict)
    returned: dict[str, None] = field(default_factory=dict)
    hidden: int = 0
    label_x: float = 0.0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]

    def walk(self) -> Iterator[Box]:
        """The boxes in this one, each group before what stands in it."""
        for box in self.inside.values():
            yield box
            yield from box.walk()


def tree(names: Mapping[str, str], edges: Iterable[tuple[str, str]], most: int) -> Box | None:
    """The boxes of a drawing with their links.

    Args:
        names: The type of every node, loop and composite, by path.
        edges: Edges as in the record of a run. Edges of unknown nodes are left out.
        most: The most boxes. Deep groups are drawn closed if there would be more.

    Returns:
        The whole drawing, or None if even its outermost boxes are more than `most`.
    """
    parents = {path: _parent(path, names) for path in names}
    depths: dict[str, int] = {}
    for path in sorted(names, key=lambda p: p.count(".")):
        depths[path] = depths[parents[path]] + 1 if parents[path] else 1
    levels = sorted(set(depths.values()), reverse=True)
    deepest = next((level for level in levels if sum(d <= level for d in depths.values()) <= most), None)
    if deepest is None and names:
        return None
    root = Box("")
    boxes = {"": root}
    for path in sorted(names, key=lambda p: depths[p]):  # groups before what stands in them; siblings in file order
        if depths[path] <= (deepest or 0):
            boxes[path] = boxes[parents[path]].inside[path] = Box(path, names[path])
        else:
            _shown(path, boxes, parents).hidden += 1
    for source, target in edges:
        start, end = _item(source, names), _item(target, names)
        if start is not None and end is not None:
            _wire(start, end, boxes, parents)
    return root


def _parent(path: str, names: Mapping[str, str]) -> str:
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if (shorter := ".".join(parts[:length])) in names:
            return shorter
    return ""


def _item(place: str, names: Mapping[str, str]) -> Port | None:
    """Path and port of one end of an edge; None for an unknown path."""
    path, _, port = place.rpartition(".")
    return (path, port) if path in names else None


def _shown(path: str, boxes: Mapping[str, Box], parents: Mapping[str, str]) -> Box:
    """The box of a path, or the closed group that it is in."""
    while path not in boxes:
        path = parents[path]
    return boxes[path]


def _around(box: Box, boxes: Mapping[str, Box], parents: Mapping[str, str]) -> list[Box]:
    """The groups around a box, innermost first; the last is the whole drawing."""
    found = []
    path = box.path
    while path:
        path = parents[path]
        found.append(boxes[path])
    return found


def _wire(start: Port, end: Port, boxes: Mapping[str, Box], parents: Mapping[str, str]) -> None:
    """Add the links of an edge, through the borders between its ends."""
    source, target = _shown(start[0], boxes, parents), _shown(end[0], boxes, parents)
    above_source, above_target = _around(source, boxes, parents), _around(target, boxes, parents)
    if source is target:
        return
    if source in above_target:  # a loop variable, or carried state
        source.entries.setdefault(start, 0.0)
        _descend(source, "", start, target, end, above_target)
        return
    if target in above_source:  # the yield of a turn
        target.exits.setdefault(end, 0.0)
        target.returned[end[1]] = None
        path = _climb(source, start, target, above_source)
        target.links[(path, start, "", end)] = None
        return
    common = next(group for group in above_source if group in above_target)
    if source.inside:
        source.exits.setdefault(start, 0.0)
    _descend(common, _climb(source, start, common, above_source), start, target, end, above_target)


def _climb(source: Box, port: Port, group: Box, around: list[Box]) -> str:
    """Add exits to the borders between a box and a group around it. The path of the last box below the group."""
    box = source
    for outer in around:
        if outer is group:
            break
        outer.exits.setdefault(port, 0.0)
        outer.links[(box.path, port, "", port)] = None
        box = outer
    return box.path


def _descend(group: Box, start: str, port: Port, target: Box, end: Port, around: list[Box]) -> None:
    """Add the link in a group, and entries to the borders between the group and a box in it."""
    chain = [target]
    for outer in around:
        if outer is group:
            break
        chain.append(outer)
    for box in reversed(chain):
        entry = end if box is target and box.inside else port
        if box.inside:
            box.entries.setdefault(entry, 0.0)
        group.links[(start, port, box.path, entry)] = None
        group, start = box, ""
