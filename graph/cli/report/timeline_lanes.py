"""The timeline of a run: a lane for each node, and where in time it ran. `assets/timeline.js` draws it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite

from markupsafe import Markup

from ..tables import tree
from .charts import as_json
from .page import piece
from .run_record import RunRecord, Stretch

MOST_LANES = 60
PHASES, LOADING = "phases", "loading"


def timeline(record: RunRecord) -> Markup | None:
    """The HTML of the timeline; None for a record without one."""
    lanes: dict[tuple[str, str], list[Stretch]] = {}
    for stretch in record.timeline:
        if isfinite(stretch.start) and isfinite(stretch.seconds):
            lanes.setdefault(_lane(stretch), []).append(stretch)
    if not lanes:
        return None
    order = {name: number for number, name in enumerate(tree(row.name for row in record.nodes))}
    kept = sorted(lanes, key=lambda lane: -sum(s.seconds for s in lanes[lane]))[:MOST_LANES]
    kept.sort(key=lambda lane: (lane != ("phase", PHASES), lane != ("load", LOADING), order.get(lane[1], len(order))))
    types = {row.name: row.type for row in record.nodes}
    data = {
        "seconds": record.seconds if isfinite(record.seconds) else 0,
        "lanes": [{"name": name, "kind": kind, "type": types.get(name, "")} for kind, name in kept],
        "items": [
            [number, round(s.start, 6), round(s.seconds, 6), s.step, s.calls, s.name if lane[1] != s.name else None]
            for number, lane in enumerate(kept)
            for s in lanes[lane]
        ],
    }
    left = len(lanes) - len(kept)
    note = f"{left} lanes with the least time are left out." if left else ""
    return piece("timeline", data=as_json(data), height=len(kept) * 24 + 30, note=note, lanes=len(kept))


def _lane(stretch: Stretch) -> tuple[str, str]:
    if stretch.kind == "phase":
        return stretch.kind, PHASES
    return (stretch.kind, LOADING) if stretch.kind == "load" else (stretch.kind, stretch.name)


def phases(values: Mapping[str, float], whole: float) -> Iterable[tuple[str, float, float, float]]:
    """Name, seconds, start and width of each phase in a bar from 0 to 100."""
    total = max(whole, sum(value for value in values.values() if isfinite(value)), 1e-9)
    at = 0.0
    for name, value in values.items():
        if isfinite(value) and value > 0:
            yield name, value, at, value / total * 100
            at += value / total * 100
