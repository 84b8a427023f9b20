"""The times of two runs side by side, for each node and for the phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..report.run_record import NodeRow
from ..tables import tree
from .compared_run import ComparedRun


@dataclass(frozen=True)
class TimePair:
    """Seconds of one thing in two runs; None in a run that has no such thing."""

    name: str
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        """`after` divided by `before`; None if one is missing, or `before` is 0."""
        return self.after / self.before if self.before and self.after is not None else None


@dataclass(frozen=True)
class NodePair(TimePair):
    """A node of two runs.

    Attributes:
        type: Its node type, in the second run if the two differ.
        calls: Calls in both runs.
        device: Whether the seconds are those of the device: both runs measured them.
        leaf: Whether the row is no sum of other rows.
    """

    type: str = ""
    calls: tuple[int, int] = (0, 0)
    device: bool = False
    leaf: bool = True


def node_pairs(before: ComparedRun, after: ComparedRun) -> tuple[NodePair, ...]:
    """The nodes of two runs that ran in one of them, in the order of the first run's file."""
    one, other = ({row.name: row for row in run.record.nodes} for run in (before, after))
    names = tree(dict.fromkeys([*one, *other]))
    sums = {name[:position] for name in names for position, letter in enumerate(name) if letter == "."}
    pairs = []
    for name in names:
        rows = (one.get(name), other.get(name))
        if any(row is not None and (row.calls or row.seconds) for row in rows):
            pairs.append(_pair(name, *rows, leaf=name not in sums))
    return tuple(pairs)


def _pair(name: str, one: NodeRow | None, other: NodeRow | None, leaf: bool) -> NodePair:
    device = all(row is not None and row.device_seconds is not None for row in (one, other))
    seconds = [None if row is None else row.device_seconds if device else row.seconds for row in (one, other)]
    last = other or one
    assert last is not None
    calls = (one.calls if one is not None else 0, other.calls if other is not None else 0)
    return NodePair(name, seconds[0], seconds[1], last.type, calls, device, leaf)


def phase_pairs(before: ComparedRun, after: ComparedRun) -> tuple[TimePair, ...]:
    """The phases that took time in one of two runs."""
    one, other = before.record.phases, after.record.phases
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) or other.get(name)]
    return tuple(TimePair(name, one.get(name), other.get(name)) for name in names)


def totals(before: ComparedRun, after: ComparedRun) -> Mapping[str, TimePair]:
    """`run`: running nodes and saving files. `whole`: from the start of the process to the last saved byte."""
    return {
        "run": TimePair("run", before.run_seconds, after.run_seconds),
        "whole": TimePair("whole", before.record.seconds, after.record.seconds),
    }


def change(ratio: float | None) -> str:
    """A ratio as text: `+4.2 %`, `-50 %`, `0 %`, `3.1 x`; `-` if there is none."""
    if ratio is None:
        return "-"
    if ratio >= 2:
        return f"{ratio:.1f} x"
    percent = (ratio - 1) * 100
    if abs(percent) < 0.05:
        return "0 %"
    return f"{percent:+.1f} %" if abs(percent) < 9.95 else f"{percent:+.0f} %"
