"""The section about the turns of loops: a chart of their seconds, and a table with the noise level of each step."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ...contract.text_tables import seconds
from .charts import Chart, Series, chart
from .page import Section, piece
from .run_record import RunRecord, StepRow
from .sortable_table import Cell, Column, table

MOST_LOOPS, MOST_ROWS = 6, 500


def section(record: RunRecord) -> Section | None:
    """A chart and a table of the turns of each loop; None if no turn has ended."""
    loops: dict[str, list[StepRow]] = {}
    for step in record.steps:
        loops.setdefault(step.loop, []).append(step)
    if not loops:
        return None
    body = Markup()
    for name, turns in list(loops.items())[:MOST_LOOPS]:
        whole = [step.seconds for step in turns]
        series = [Series("seconds", whole, "bars")]
        if any(step.device_seconds is not None for step in turns):
            series.append(Series("device seconds", [step.device_seconds for step in turns]))
        about = f"Seconds of each turn of {name}."
        counted = f"{len(turns)} turns" if len(turns) != 1 else "1 turn"
        each = f", {seconds(sum(whole) / len(whole))} s each" if len(turns) != 1 else ""
        more = f"{counted}, {seconds(sum(whole))} s{each}{_whose(turns)}"
        body += piece("subheading", text=name, more=more)
        body += chart(Chart(about, "turn", list(range(len(turns))), series, unit="seconds", height=170))
        body += _table(name, turns)
    left = len(loops) - MOST_LOOPS
    body += piece("note", text=f"{left} more loops are left out.") if left > 0 else Markup()
    return Section("steps", "Steps", body)


def _whose(turns: Sequence[StepRow]) -> str:
    """The run that took the time, if it was another one."""
    reused = sum(turn.reused for turn in turns)
    if not reused:
        return ""
    some = "" if reused == len(turns) else f"of {reused} turns "
    return f"; times {some}are those of the run that made the stored result"


def _table(name: str, turns: Sequence[StepRow]) -> Markup:
    """The turns of a loop; columns without any number are left out."""
    given = {
        "step": any(turn.step is not None for turn in turns),
        "sigma": any(turn.sigma is not None for turn in turns),
        "device s": any(turn.device_seconds is not None for turn in turns),
    }
    columns = [
        Column("turn", True),
        Column("step", True, "Index in the schedule"),
        Column("sigma", True, "Noise level before the step"),
        Column("seconds", True, "Time of the host in the turn"),
        Column("device s", True, "Time between events of the device"),
    ]
    kept = [column for column in columns if given.get(column.title, True)]
    rows = []
    for turn in turns[:MOST_ROWS]:
        cells = {
            "turn": Cell(str(turn.turn), turn.turn),
            "step": Cell("" if turn.step is None else str(turn.step), turn.step),
            "sigma": Cell("" if turn.sigma is None else f"{turn.sigma:.4g}", turn.sigma),
            "seconds": Cell(seconds(turn.seconds), turn.seconds),
            "device s": Cell(seconds(turn.device_seconds), turn.device_seconds),
        }
        rows.append([cells[column.title] for column in kept])
    title = "All turns" if len(turns) <= MOST_ROWS else f"The first {MOST_ROWS} of {len(turns)} turns"
    return piece("folded", title=title, body=table(f"{title} of {name}", kept, rows))
