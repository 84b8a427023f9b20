"""The panel of one run: its sections, in the order in which a reader asks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from markupsafe import Markup

from ...contract.node import NodeType
from ...contract.node_library import NodeLibrary
from ...contract.text_tables import count, seconds, shortened
from ..run_table import ceiling
from ..tables import facts, shape, tree
from . import lane_section, process_section, step_section
from .charts import Chart, Series, chart
from .graph_drawing import NodeFacts, drawing
from .media_files import Media, other_outputs
from .page import Panel, Section, piece
from .repeat_command import recipe_command, repeat_command
from .run_record import NodeRow, RecordedRun, RunRecord
from .sortable_table import Cell, Column, table
from .timeline_lanes import phases, timeline

MOST_KERNELS, MOST_WARNINGS, MOST_TEXT = 200, 100, 20_000


@dataclass(frozen=True)
class Around:
    """Everything beside its record that the panel of a run needs."""

    libraries: Sequence[NodeLibrary]
    types: Mapping[str, NodeType]
    exec_parser: argparse.ArgumentParser
    media: Media


def run_panel(run: RecordedRun, around: Around, id: str) -> Panel:
    """The panel of a run. `id` is a word that no other panel of the page has."""
    record = run.record
    notes: list[str] = []
    added = list(_added(run, around.libraries, notes))
    found = [
        _graph(record, around.types, id),
        _time(record),
        _nodes(record),
        process_section.section(record),
        step_section.section(record),
        *added,
        _memory(record),
        _kernels(record),
        _warnings([*record.warnings, *notes]),
        _environment(record),
    ]
    return Panel(
        title=record.workflow.name,
        sections=[section for section in found if section is not None],
        head=_head(run, around),
        label=run.name,
        status=record.status,
    )


def _head(run: RecordedRun, around: Around) -> Markup:
    """Outputs, inputs, the largest numbers, and the command."""
    record = run.record
    files = around.media.files(run)
    steps = len(record.steps)
    numbers = [("time", f"{seconds(record.seconds)} s")]
    numbers += [("peak memory", count(record.peak_bytes, "B", 1024))] if record.peak_bytes else []
    numbers += [("turns of loops", str(steps))] if steps else []
    numbers += [("device", str(record.environment.get("device", "")))]
    inputs = [(name, _text(value), isinstance(value, str) and len(value) > 24) for name, value in record.inputs.items()]
    return piece(
        "head",
        record=record,
        files=files,
        values={name: _text(value) for name, value in other_outputs(record.outputs, files).items()},
        numbers=numbers,
        inputs=inputs,
        settings=[(path, _text(value)) for path, value in record.set.items()],
        command=repeat_command(record, around.exec_parser, run.plain),
        recipe=recipe_command(run, around.exec_parser),
        folder=run.name,
    )


def _text(value: Any) -> str:
    """A value of a record for people."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shortened(text, MOST_TEXT)


def _graph(record: RunRecord, types: Mapping[str, NodeType], id: str) -> Section | None:
    """The drawing. A record of an older sgd has no edges, and no drawing."""
    if not record.edges:
        return None
    rows = [row for row in record.nodes if row.is_node]
    names = {row.name: row.type for row in rows}
    edges = [(edge.source, edge.target) for edge in record.edges]
    body = drawing(names, edges, {row.name: _facts(row, types.get(row.type)) for row in rows}, f"{id}-graph")
    return Section("graph", "Graph", body, "The stronger the colour of a node, the larger its share of the time.")


def _facts(row: NodeRow, type: NodeType | None) -> NodeFacts:
    """The facts of a node, for the panel beside the drawing."""
    rows = [("share of the run", f"{row.share:.1%}"), ("calls", str(row.calls))]
    rows += [("interrupted", "in a call that is not counted")] if row.interrupted else []
    rows += [("device seconds", seconds(row.device_seconds))] if row.device_seconds is not None else []
    rows += [("peak memory", count(row.peak_bytes, "B", 1024))] if row.peak_bytes else []
    rows += [("operations", count(row.flops, "FLOP"))] if row.flops else []
    rows += [("operations", "not counted yet")] if row.uncounted else []
    rows += [("moved", count(row.bytes, "B", 1024))] if row.bytes else []
    rows += [("ceiling", _ceiling(row))] if row.ceiling is not None else []
    for output in row.outputs:
        described = shape([output]) or str(output.get("type", ""))
        rows.append((f"output {output.get('port', '')}", described))
    rows += [(name, _text(value)) for name, value in row.detail.items() if isinstance(value, str | int | float)]
    idle = "merged" if "same_as" in row.detail else "reused" if row.reused else "did not run"
    return NodeFacts(type.summary if type is not None else "", rows, row.seconds, row.calls + row.interrupted, idle)


def _ceiling(row: NodeRow) -> str:
    return "" if row.ceiling is None else ceiling(row.ceiling.model_dump())


def _time(record: RunRecord) -> Section | None:
    bars = list(phases(record.phases, record.seconds))
    lanes = timeline(record)
    if not bars and lanes is None:
        return None
    body = piece("phases", bars=bars) + (lanes or Markup())
    return Section("time", "Time", body)


def _nodes(record: RunRecord) -> Section | None:
    """The table of nodes; columns without any number are left out."""
    if not record.nodes:
        return None
    rows = {row.name: row for row in record.nodes}
    optional = {
        "device s": any(row.device_seconds is not None for row in rows.values()),
        "peak": any(row.peak_bytes for row in rows.values()),
        "FLOPs": any(row.flops for row in rows.values()),
        "bytes": any(row.bytes for row in rows.values()),
        "ceiling": any(row.ceiling for row in rows.values()),
    }
    columns = [
        Column("node"),
        Column("calls", True),
        Column("seconds", True, "Time of the host in the node"),
        Column("device s", True, "Time between events of the device"),
        Column("share", True, "Share of the whole run"),
        Column("peak", True, "Most memory while it ran"),
        Column("FLOPs", True, "Operations on numbers"),
        Column("bytes", True, "Bytes that it read and wrote"),
        Column("ceiling", True, "The limit of this machine that it came nearest to"),
        Column("output"),
    ]
    lines = []
    for name in tree(rows):
        row = rows[name]
        idle = "interrupted" if row.interrupted else "reused" if row.reused else "–"
        same = row.detail.get("same_as")
        said = f"same as {same}" if same else "; ".join(t for t in (_shape(row), facts(_short(row.detail))) if t)
        share = row.share if isfinite(row.share) else 0.0
        lines.append(
            {
                "node": Cell(name.rsplit(".", 1)[-1], depth=min(name.count("."), 6), more=row.type, mono=True),
                "calls": Cell(str(row.calls or idle), row.calls),
                "seconds": Cell(seconds(row.seconds), row.seconds),
                "device s": Cell(seconds(row.device_seconds), row.device_seconds),
                "share": Cell(f"{share:.1%}", share, bar=min(max(share, 0.0), 1.0)),
                "peak": Cell(count(row.peak_bytes, "B", 1024), row.peak_bytes),
                "FLOPs": Cell(count(row.flops), row.flops),
                "bytes": Cell(count(row.bytes, "B", 1024), row.bytes),
                "ceiling": Cell(_ceiling(row), row.ceiling.fraction if row.ceiling else None),
                "output": Cell(shortened(said, 90)),
            }
        )
    kept = [column for column in columns if optional.get(column.title, True)]
    body = table("The nodes of the run", kept, [[line[column.title] for column in kept] for line in lines])
    about = "A loop or composite is the sum of the nodes in it. Click a heading to sort."
    uncounted = [row.name for row in record.nodes if row.uncounted and row.type != "loop"]
    if uncounted:
        about += f" The work of {', '.join(uncounted)} is not counted yet: it would have slowed this run."
    return Section("nodes", "Nodes", body, about)


def _short(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Details with numbers of four digits; the panel beside the graph has six."""
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in detail.items()}


def _shape(row: NodeRow) -> str:
    first = row.outputs[:1]
    return shape(first) if not first or isinstance(first[0].get("shape", []), list) else ""


def _added(run: RecordedRun, libraries: Sequence[NodeLibrary], notes: list[str]) -> Iterator[Section]:
    """The sections of node libraries. A library that fails is named in `notes`."""
    for library in libraries:
        try:
            yield from [lane_section.section(given) for given in library.report_sections(run.plain)]
        except Exception as error:
            name = type(library).__name__
            notes.append(f"the section of {name} cannot be made: {type(error).__name__}: {error}")


def _memory(record: RunRecord) -> Section | None:
    points = sorted((p for p in record.memory if isfinite(p.seconds)), key=lambda point: point.seconds)
    if not points:
        return None
    series = [Series("memory", [point.bytes for point in points], "area")]
    about = f"Memory over time, at most {count(max(p.bytes for p in points), 'B', 1024)}."
    body = chart(Chart(about, "time", [p.seconds for p in points], series, unit="bytes", x_unit="seconds"))
    return Section("memory", "Memory", body, about)


def _kernels(record: RunRecord) -> Section | None:
    if not record.kernels:
        return None
    rows = sorted(record.kernels, key=lambda k: -(k.device_seconds or k.seconds or 0.0))
    several = any(row.rank is not None for row in rows)
    columns = [
        Column("kernel"),
        *([Column("rank", True)] if several else []),
        Column("node"),
        Column("calls", True),
        Column("device s", True),
        Column("seconds", True),
    ]
    cells = [
        [
            Cell(shortened(row.name, 120), mono=True),
            *([Cell("" if row.rank is None else str(row.rank), row.rank)] if several else []),
            Cell(row.node, mono=True),
            Cell(str(row.calls), row.calls),
            Cell(seconds(row.device_seconds), row.device_seconds),
            Cell(seconds(row.seconds), row.seconds),
        ]
        for row in rows[:MOST_KERNELS]
    ]
    about = "Summed under the node that launched them."
    about += f" The {MOST_KERNELS} with the most time, of {len(rows)}." if len(rows) > MOST_KERNELS else ""
    return Section("kernels", "Kernels", table("Kernels by time", columns, cells), about)


def _warnings(warnings: Sequence[str]) -> Section | None:
    if not warnings:
        return None
    left = len(warnings) - MOST_WARNINGS
    body = piece("warnings", warnings=[shortened(w, 2000) for w in warnings[:MOST_WARNINGS]], left=max(left, 0))
    return Section("warnings", "Warnings", body)


def _environment(record: RunRecord) -> Section:
    rows = [
        (name, _text(value) if value is not None else "not installed") for name, value in record.environment.items()
    ]
    rows += [("sgd", record.sgd), ("file", record.workflow.file or "none"), ("SHA-256", record.workflow.sha256)]
    options = [(name.replace("_", " "), _text(value)) for name, value in record.options.items()]
    return Section("environment", "Environment", piece("facts", rows=rows, options=options))
