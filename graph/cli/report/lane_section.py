"""A section of a node library as HTML: a strip of marks for each lane, and a chart of the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from ...contract.report_section import ReportSection, StepLane, StepMark
from .charts import Chart, Series, chart
from .page import Section, piece
from .sortable_table import Cell, Column, table

MOST_MARKS, MOST_LANES, MOST_ROWS = 400, 40, 1000


@dataclass(frozen=True)
class DrawnMark:
    """A mark of a strip: its place from 0, its width, its state, and the text that it shows."""

    x: int
    width: int
    on: bool
    text: str


def section(given: ReportSection) -> Section:
    """The section of a page for a section of a library."""
    steps = sorted({mark.step for lane in given.lanes for mark in lane.marks})
    body = Markup()
    shown = given.lanes[:MOST_LANES]
    strips = [(lane, _strip(lane, given, steps)) for lane in shown]
    left = len(given.lanes) - len(shown)
    note = f"{left} more lanes are left out." if left else ""
    body += piece("strips", strips=strips, steps=len(steps), on=given.on, off=given.off, note=note)
    series = _series(shown[:8])
    if series and steps:
        about = f"The {given.value} at each step, and its limit."
        body += chart(Chart(about, "step", steps, [_at(steps, *each) for each in series], height=210))
    rows = [(lane, mark) for lane in shown for mark in lane.marks]
    cells = [
        [
            Cell(str(mark.step), mark.step),
            Cell(lane.name, mono=True),
            Cell(given.on if mark.on else given.off),
            Cell(mark.reason),
            Cell(_number(mark.value), mark.value),
            Cell(_number(mark.limit), mark.limit),
        ]
        for lane, mark in sorted(rows, key=lambda row: row[1].step)[:MOST_ROWS]
    ]
    columns = [Column("step", True), Column("lane"), Column("choice"), Column("reason"), Column(given.value, True),
               Column("limit", True)]  # fmt: skip
    title = "All choices" if len(rows) <= MOST_ROWS else f"The first {MOST_ROWS} of {len(rows)} choices"
    body += piece("folded", title=title, body=table(f"{title} of {given.title}", columns, cells))
    return Section(given.id, given.title, body, given.about)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _strip(lane: StepLane, given: ReportSection, steps: Sequence[int]) -> list[DrawnMark]:
    """The marks of a lane. Where there are too many, neighbours are one mark, which is on if any of them is."""
    places = {step: number for number, step in enumerate(steps)}
    each = -(-len(steps) // MOST_MARKS)
    if each <= 1:
        return [DrawnMark(places[m.step], 1, m.on, _told(m, given)) for m in lane.marks]
    groups: dict[int, list[StepMark]] = {}
    for mark in lane.marks:
        groups.setdefault(places[mark.step] // each, []).append(mark)
    return [
        DrawnMark(
            number * each,
            min(each, len(steps) - number * each),
            any(m.on for m in marks),
            f"steps {marks[0].step} to {marks[-1].step}: {sum(m.on for m in marks)} of {len(marks)} {given.on}",
        )
        for number, marks in groups.items()
    ]


def _told(mark: StepMark, given: ReportSection) -> str:
    text = f"step {mark.step}: {given.on if mark.on else given.off}"
    text += f", {mark.reason}" if mark.reason else ""
    if mark.value is not None and mark.limit is not None:
        text += f" ({given.value} {_number(mark.value)}, limit {_number(mark.limit)})"
    return text


def _series(lanes: Sequence[StepLane]) -> list[tuple[str, StepLane, bool]]:
    """The lines of a chart: a lane's values, and its limits where they differ from those before."""
    found: list[tuple[str, StepLane, bool]] = []
    limits: list[dict[int, float | None]] = []
    for lane in lanes:
        if any(mark.value is not None for mark in lane.marks):
            found.append((lane.name, lane, False))
            own = {mark.step: mark.limit for mark in lane.marks}
            if any(limit is not None and isfinite(limit) for limit in own.values()) and own not in limits:
                limits.append(own)
                found.append((f"limit of {lane.name}" if len(limits) > 1 else "limit", lane, True))
    return found


def _at(steps: Sequence[int], label: str, lane: StepLane, is_limit: bool) -> Series:
    values = {mark.step: mark.limit if is_limit else mark.value for mark in lane.marks}
    return Series(label, [values.get(step) for step in steps], "limit" if is_limit else "line")
