"""Places for the boxes of a graph: layers from top to bottom, groups from the inside out.

Boxes go into layers by their longest path, wires of several layers through places between the boxes, and neighbours
into the order of the mean of their neighbours (Sugiyama, Tagawa and Toda, 1981). Sideways, the sum of the squares of
all shifts is least (isotonic regression).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

from .graph_tree import Box, Port

NODE_HEIGHT, LAYER_GAP, SIDE_GAP, TRACK_GAP = 54.0, 42.0, 26.0, 16.0
PADDING, HEADER, LOW_HEADER, RETURN_WIDTH = 18.0, 62.0, 36.0, 26.0
SWEEPS = 16
STRAIGHT = 8.0
"""How much more a wire between two layers without boxes wants to be straight than one that ends at a box."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Wire:
    """A line between two boxes, from top to bottom. `source` and `target` are paths; empty for a border."""

    points: tuple[Point, ...]
    source: str
    target: str
    port: Port
    back: bool = False


@dataclass(eq=False)
class _Place:
    """A vertex of one group: a box, a port of the group's border, its label there, or where a wire passes a layer."""

    width: float
    box: Box | None = None
    port: Port | None = None
    is_label: bool = False
    x: float = 0.0
    """The middle."""
    above: list[tuple[_Place, float, float]] = field(default_factory=list)
    """Places that a wire from here goes up to, and how far it is from the middle here and there."""
    below: list[tuple[_Place, float, float]] = field(default_factory=list)


def layout(root: Box, size: Callable[[Box], float]) -> list[Wire]:
    """Give every box its place, and return the wires in the coordinates of the drawing.

    Args:
        root: The whole drawing.
        size: The width of a node, or of the label of a group, in pixels.
    """
    found: dict[str, list[Wire]] = {}
    _arrange(root, size, found)
    wires = list(found[""])
    for group in root.walk():
        for box in group.inside.values():  # groups come before what stands in them
            box.x, box.y = box.x + group.x, box.y + group.y
        for wire in found.get(group.path, ()):
            wires.append(replace(wire, points=tuple((x + group.x, y + group.y) for x, y in wire.points)))
    return wires


def _arrange(group: Box, size: Callable[[Box], float], found: dict[str, list[Wire]]) -> None:
    """Lay out a group and what stands in it. Places and wires are relative to the group's corner."""
    for box in group.inside.values():
        if box.inside:
            _arrange(box, size, found)
        else:
            box.width, box.height = size(box), NODE_HEIGHT
    layers, chains = _layers(group, size(group) if group.path else 0.0)
    _order(layers)
    _sideways(layers)
    found[group.path] = _finish(group, layers, chains)


def _layers(
    group: Box, label: float
) -> tuple[list[list[_Place]], list[tuple[list[_Place], tuple[str, Port, str, Port]]]]:
    """The layers of a group, the borders first and last, and the places of each link."""
    ranks = _ranks(group)
    last = max(ranks.values(), default=0) + 2
    places = {path: _Place(box.width, box=box) for path, box in group.inside.items()}
    layers: list[list[_Place]] = [[] for _ in range(last + 1)]
    top = {port: _Place(TRACK_GAP, port=port) for port in group.entries}
    bottom = {port: _Place(TRACK_GAP, port=port) for port in group.exits}
    if label:  # left of all wires, so that it covers none
        layers[0].append(_Place(label + 20, is_label=True))
    layers[0] += top.values()
    for path in group.inside:
        layers[ranks[path] + 1].append(places[path])
    layers[last] += bottom.values()
    passing: dict[tuple[_Place, Port, int], _Place] = {}
    chains = []
    for link in group.links:
        start, port, end, entry = link
        source, target = places[start] if start else top[port], places[end] if end else bottom[entry]
        first, final = ranks[start] + 1 if start else 0, ranks[end] + 1 if end else last
        if final <= first:
            continue  # a circle, in a record that is not ours
        chain = [source]
        for layer in range(first + 1, final):
            key = (source, port, layer)
            if key not in passing:
                passing[key] = _Place(TRACK_GAP)
                layers[layer].append(passing[key])
            chain.append(passing[key])
        chain.append(target)
        for upper, lower in pairwise(chain):
            here, there = _offset(upper, port, "exits"), _offset(lower, entry, "entries")
            if all(below is not lower for below, _, _ in upper.below):
                upper.below.append((lower, here, there))
                lower.above.append((upper, there, here))
        chains.append((chain, link))
    return layers, chains


def _offset(place: _Place, port: Port, side: str) -> float:
    """How far a wire meets a box from its middle."""
    if place.box is None or not place.box.inside:
        return 0.0
    return getattr(place.box, side).get(port, place.width / 2) - place.width / 2


def _ranks(group: Box) -> dict[str, int]:
    """The layer of each box: below all that it reads, and boxes that read nothing close to their readers."""
    above: dict[str, set[str]] = {path: set() for path in group.inside}
    below: dict[str, set[str]] = {path: set() for path in group.inside}
    for start, _, end, _ in group.links:
        if start and end:
            above[end].add(start)
            below[start].add(end)
    ranks: dict[str, int] = {}
    waiting = {path: len(sources) for path, sources in above.items()}
    while waiting:
        ready = [path for path, count in waiting.items() if count <= 0] or [next(iter(waiting))]
        for path in ready:
            del waiting[path]
            ranks[path] = max((ranks[source] + 1 for source in above[path] if source in ranks), default=0)
        for path in ready:
            for reader in below[path]:
                if reader in waiting:
                    waiting[reader] -= 1
    for path in group.inside:
        if not above[path] and below[path]:
            ranks[path] = max(0, min(ranks[reader] for reader in below[path]) - 1)
    return ranks


def _order(layers: Sequence[list[_Place]]) -> None:
    """Sort each layer by the mean place of its neighbours, downwards and upwards in turn."""
    for layer in layers:
        _number(layer)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers[1:] if down else reversed(layers[:-1]):
            means = {}
            for place in layer:
                near = [other.x for other, _, _ in (place.above if down else place.below)]
                means[place] = -inf if place.is_label else sum(near) / len(near) if near else place.x
            layer.sort(key=means.__getitem__)
            _number(layer)


def _number(layer: Sequence[_Place]) -> None:
    """Spread a layer evenly around 0."""
    width = sum(place.width for place in layer)
    at = -width / 2
    for place in layer:
        place.x = at + place.width / 2
        at += place.width


def _sideways(layers: Sequence[list[_Place]]) -> None:
    """Move places towards their neighbours, without changing their order."""
    for layer in layers:
        _spread(layer, [place.x for place in layer], [1.0] * len(layer))
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted, pulls = [], []
            for place in layer:
                near = [
                    (other.x + there - here, STRAIGHT if place.box is None and other.box is None else 1.0)
                    for other, here, there in (*place.above, *place.below)
                ]
                if place.is_label and len(layer) > 1:
                    near = [(layer[1].x, 0.01)]
                pull = sum(each for _, each in near)
                wanted.append(sum(x * each for x, each in near) / pull if near else place.x)
                pulls.append(pull or 0.1)
            _spread(layer, wanted, pulls)


def _spread(layer: Sequence[_Place], wanted: Sequence[float], pulls: Sequence[float]) -> None:
    """Put places as near to the wanted ones as the gaps allow: isotonic regression by pooling neighbours."""
    shifts: list[float] = []
    shift, before = 0.0, None
    for place in layer:
        if before is not None:
            gap = SIDE_GAP if place.box is not None or before.box is not None else 0.0
            shift += (before.width + place.width) / 2 + gap
        shifts.append(shift)
        before = place
    pools: list[tuple[float, float, int]] = []
    for want, shift, pull in zip(wanted, shifts, pulls, strict=True):
        mean, count = want - shift, 1
        while pools and pools[-1][0] > mean:
            other, heavy, many = pools.pop()
            mean = (mean * pull + other * heavy) / (pull + heavy)
            pull, count = pull + heavy, count + many
        pools.append((mean, pull, count))
    at = iter([mean for mean, _, count in pools for _ in range(count)])
    for place, shift in zip(layer, shifts, strict=True):
        place.x = next(at) + shift


def header(group: Box) -> float:
    """The height above the first layer of a group, in pixels."""
    only = len(group.inside) == 1 and any(box.inside for box in group.inside.values())
    return PADDING if not group.path else LOW_HEADER if only else HEADER


def _finish(
    group: Box,
    layers: Sequence[Sequence[_Place]],
    chains: Sequence[tuple[list[_Place], tuple[str, Port, str, Port]]],
) -> list[Wire]:
    """Set the size of a group, place its boxes, and return its wires."""
    wires = []
    everything = [place for layer in layers for place in layer]
    left = min((p.x - p.width / 2 for p in everything), default=0.0) - PADDING
    right = max((p.x + p.width / 2 for p in everything), default=0.0) + PADDING
    if group.returned:
        right += RETURN_WIDTH
    group.width = right - left
    y = header(group)
    tops, bottoms = {}, {}
    for number, layer in enumerate(layers):
        if number in (0, len(layers) - 1):
            continue
        height = max((place.box.height for place in layer if place.box is not None), default=0.0)
        for place in layer:
            tops[place], bottoms[place] = y, y + height
            if place.box is not None:
                own = y + (height - place.box.height) / 2
                tops[place], bottoms[place] = own, own + place.box.height
                place.box.x, place.box.y = place.x - place.width / 2 - left, own
        y += height + LAYER_GAP
    group.height = y - LAYER_GAP + PADDING + (LAYER_GAP / 2 if group.exits else 0)
    for place in layers[0]:
        if place.is_label:
            group.label_x = place.x - place.width / 2 + 10 - left
            continue
        tops[place], bottoms[place] = 0.0, 0.0
        group.entries[place.port or ("", "")] = place.x - left
    for place in layers[-1]:
        tops[place], bottoms[place] = group.height, group.height
        group.exits[place.port or ("", "")] = place.x - left
    for chain, (start, port, end, entry) in chains:
        points: list[Point] = []
        for place in chain:
            last = place is chain[-1]
            first = place is chain[0]
            x = place.x - left + (_offset(place, port, "exits") if first else 0)
            x += _offset(place, entry, "entries") if last else 0
            if last and place.box is not None and not place.box.inside:
                x += _spot(place, chain[-2])
            points += [] if first else [(x, tops[place])]
            points += [] if last else [(x, bottoms[place])]
        wires.append(Wire(tuple(points), start, end, port))
    for name in group.returned:
        port = (group.path, name)
        if port in group.entries and port in group.exits:
            wires.append(Wire(_way_back(group, port), group.path, group.path, port, back=True))
    return wires


def _spot(place: _Place, source: _Place) -> float:
    """How far from the middle of a node a wire ends, so that several wires do not end at one point."""
    order = sorted((other for other, _, _ in place.above), key=lambda other: other.x)
    gap = min(14.0, place.width * 0.7 / len(order))
    return (order.index(source) - (len(order) - 1) / 2) * gap


def _way_back(group: Box, port: Port) -> tuple[Point, ...]:
    """The way of carried state: from the bottom of a loop along its right side to its top."""
    down, up = group.height - PADDING / 2 - 3, HEADER / 2 + 8
    side = group.width - RETURN_WIDTH / 2 - 4
    return ((group.exits[port], down), (side, down), (side, up), (group.entries[port], up))
