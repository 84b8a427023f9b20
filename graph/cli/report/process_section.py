"""The section about the processes of a run: charts and a table with a row for each, and the nodes of each."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ...contract.processes import Mesh
from ...contract.text_tables import count, seconds
from .charts import Chart, Series, chart
from .page import Section, piece
from .run_record import ProcessRow, RunRecord
from .sortable_table import Cell, Column, table

MOST_COLUMNS = 16
"""The most ranks that get a column in the table of nodes."""


def section(record: RunRecord) -> Section | None:
    """The section; None for a run in one process."""
    rows = sorted(record.processes, key=lambda row: row.rank)
    if not rows:
        return None
    mesh = record.parallel.mesh if record.parallel is not None else Mesh(ulysses=len(rows))
    ranks = [row.rank for row in rows]
    times = [
        Series("seconds", [row.seconds for row in rows], "bars"),
        Series("waited", [row.waited_seconds for row in rows]),
    ]
    body = chart(Chart("Seconds of each process, and those in which it waited.", "rank", ranks, times, unit="seconds"))
    sent = [Series("sent", [row.exchanged_bytes for row in rows], "bars")]
    body += chart(Chart("Bytes that each process sent.", "rank", ranks, sent, unit="bytes", height=150))
    body += _table(rows, mesh)
    if any(row.nodes for row in rows):
        body += _nodes(rows)
    about = f"{len(rows)} processes, {mesh}. Nodes, steps and memory elsewhere on this page are those of rank 0."
    return Section("processes", "Processes", body, about)


def _table(rows: Sequence[ProcessRow], mesh: Mesh) -> Markup:
    columns = [
        Column("rank"),
        Column("place", about="Its number along each axis of the arrangement, from 0"),
        Column("seconds", True, "From its start to the end of its part"),
        Column("waited", True, "Seconds of these in which its host waited for other processes"),
        Column("share waited", True),
        Column("sent", True, "Bytes that it sent to others"),
        Column("peak", True, "Most memory: of its GPU, or of the process on a CPU"),
    ]
    cells = []
    for row in rows:
        share = min(max(row.waited_seconds / row.seconds, 0.0), 1.0) if row.seconds > 0 else 0.0
        place = mesh.place(row.rank)
        numbers = {"branches": place.branch, "ulysses": place.ulysses, "ring": place.ring}
        along = [f"{axis} {number}" for axis, number in numbers.items() if getattr(mesh, axis) > 1]
        cells.append(
            [
                Cell(str(row.rank), row.rank),
                Cell(", ".join(along)),
                Cell(seconds(row.seconds), row.seconds),
                Cell(seconds(row.waited_seconds), row.waited_seconds),
                Cell(f"{share:.1%}", share, bar=share),
                Cell(count(row.exchanged_bytes, "B", 1024), row.exchanged_bytes),
                Cell(count(row.peak_bytes, "B", 1024), row.peak_bytes),
            ]
        )
    return table("The processes of the run", columns, cells)


def _nodes(rows: Sequence[ProcessRow]) -> Markup:
    """The seconds of each node in each process."""
    shown = rows[:MOST_COLUMNS]
    columns = [Column("node"), *(Column(f"rank {row.rank}", True, "Time of the host in the node") for row in shown)]
    spent = [{node.name: node.seconds for node in row.nodes} for row in shown]
    cells = []
    for name in dict.fromkeys(node.name for row in shown for node in row.nodes):
        times = [each.get(name) for each in spent]
        known = [Cell("–" if time is None else seconds(time), time) for time in times]
        cells.append([Cell(name, mono=True), *known])
    title = "Seconds of each node in each process"
    title += f": the first {MOST_COLUMNS} of {len(rows)}" if len(rows) > MOST_COLUMNS else ""
    return piece("folded", title=title, body=table(title, columns, cells))
